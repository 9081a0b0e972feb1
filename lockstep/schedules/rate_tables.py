"""Which parameters share a learning rate, and which decay: the groups of an optimizer, by canonical
names.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.recipe import Optimizer, Recipe
from lockstep.schedules.formulas import learning_rates

__all__ = ["decay_warnings", "decays", "is_weight", "layer_of", "rate_of", "rate_tables"]

NOTABLE = 0.01
"""Share of a run's weight decay that is told of when rounding takes or adds it."""


def layer_of(name: str) -> int:
    """The layer of a parameter, counted from 1: 2 for "linear2.weight" as for "norm2.bias"."""
    module = name.partition(".")[0]
    return int(module.lstrip("abcdefghijklmnopqrstuvwxyz"))


def decays(optimizer: Optimizer, name: str) -> bool:
    """Whether weight decay acts on a parameter."""
    if not optimizer.decay_rate:
        return False
    return optimizer.decay_on == "all" or is_weight(name)


def is_weight(name: str) -> bool:
    """Whether a parameter is the weight of a linear layer; it may have its Flax name,
    "linear1.kernel".
    """
    return name.startswith("linear") and not name.endswith("bias")


def rate_of(optimizer: Optimizer, name: str) -> int:
    """The key of `rate_tables` that a parameter is trained at."""
    return layer_of(name) if optimizer.multipliers else 0


def rate_tables(recipe: Recipe, updates_per_epoch: int) -> dict[int, NDArray[Any]]:
    """The learning rate of every update: 0 -> the schedule's, and with multipliers layer -> the
    layer's.

    Returns:
        arrays (T,) in the recipe's dtype: the float64 rate times the float64 multiplier, rounded
        once.

    Raises:
        InputError: a warmup longer than the run.
    """
    rates_T = learning_rates(recipe, updates_per_epoch)
    factors = dict(enumerate(recipe.optimizer.multipliers, start=1))
    return {
        layer: (rates_T * np.float64(factor)).astype(recipe.dtype)
        for layer, factor in ({0: 1.0} | factors).items()
    }


def decay_warnings(recipe: Recipe, updates_per_epoch: int) -> Iterator[str]:
    """Where float32 loses the weight decay of AdamW and NAdamW: the factor 1 - lr weight_decay has
    steps of 2^-24
    below 1, and is 1 where lr weight_decay is under half of one (torch 2.13, `Tensor.mul_` with a
    Python number)."""
    optimizer = recipe.optimizer
    if (
        optimizer.get("decay_form") != "factor"
        or not optimizer.decay_rate
        or recipe.dtype != np.float32
    ):
        return
    tables = rate_tables(recipe, updates_per_epoch)
    trained = [table_T for layer, table_T in tables.items() if layer or len(tables) == 1]
    wanted_LT = np.stack(trained).astype(np.float64) * optimizer.decay_rate
    applied_LT = 1 - (1 - wanted_LT).astype(np.float32).astype(np.float64)
    none_T = ((wanted_LT > 0) & (applied_LT == 0)).any(axis=0)
    wanted = wanted_LT.sum()
    share = 1 - applied_LT.sum() / wanted if wanted else 0.0
    if none_T.any() or abs(share) >= NOTABLE:
        places = (
            f"rounds to 1 at {none_T.sum()} of {none_T.size} updates ({_ranges(none_T)})"
            if none_T.any()
            else ""
        )
        places = (
            places or f"is rounded in steps of 2^-24 that are coarse beside {wanted_LT.max():.1g}"
        )
        change = (
            f"{100 * abs(share):.3g} % of the run's decay is {'lost' if share >= 0 else 'added'}"
        )
        yield (
            f"optimizer.weight_decay: in float32, 1 - lr weight_decay {places}: {change}; "
            'optimizer.decay_form = "step" keeps it in the mean'
        )


def _ranges(which_T: NDArray[np.bool_]) -> str:
    """The updates that are meant, in words: "0 to 3, 7 to 9"."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], which_T, [False]]).astype(np.int8)))
    found = [
        f"{begin}" if end - begin == 1 else f"{begin} to {end - 1}"
        for begin, end in edges.reshape(-1, 2).tolist()
    ]
    return ", ".join(found[:3]) + (
        f" and {len(found) - 3} more stretches" if len(found) > 3 else ""
    )
