"""The learning rate and the weight decay of each parameter, by its canonical name."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.recipe import Optimizer, Recipe
from lockstep.schedules.formulas import learning_rates

__all__ = ["decay_warnings", "decays", "is_weight", "layer_of", "rate_of", "rate_tables"]

NOTABLE = 0.01
"""Share of a run's weight decay that rounding takes or adds, from which on there is a warning."""


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
    """Whether a parameter is the weight of a linear layer, which in Flax is "linear1.kernel"."""
    return name.startswith("linear") and not name.endswith("bias")


def rate_of(optimizer: Optimizer, name: str) -> int:
    """The key in `rate_tables` of a parameter's learning rate."""
    return layer_of(name) if optimizer.multipliers else 0


def rate_tables(recipe: Recipe, updates_per_epoch: int) -> dict[int, NDArray[Any]]:
    """The learning rate of every update, without a multiplier and for each layer with one.

    Returns:
        0 -> the schedule's rates, and layer -> the layer's rates; shape (T,), in the recipe's
        dtype. The float64 rate times the float64 multiplier is rounded once.

    Raises:
        InputError: as in `learning_rates`.
    """
    rates_T = learning_rates(recipe, updates_per_epoch)
    factors = {0: 1.0} | dict(enumerate(recipe.optimizer.multipliers, start=1))
    return {
        layer: (rates_T * np.float64(factor)).astype(recipe.dtype)
        for layer, factor in factors.items()
    }


def decay_warnings(recipe: Recipe, updates_per_epoch: int) -> Iterator[str]:
    """A warning where float32 loses the weight decay of AdamW or NAdamW.

    The factor 1 - lr weight_decay has steps of 2^-24 below 1, and is 1 where lr weight_decay is
    under half of one (torch 2.13, `Tensor.mul_` with a Python number).
    """
    optimizer = recipe.optimizer
    is_factor = optimizer.get("decay_form") == "factor" and bool(optimizer.decay_rate)
    if not is_factor or recipe.dtype != np.float32:
        return
    tables = rate_tables(recipe, updates_per_epoch)
    trained = [table_T for layer, table_T in tables.items() if layer or len(tables) == 1]
    decay_LT = np.stack(trained).astype(np.float64) * optimizer.decay_rate
    applied_LT = 1 - (1 - decay_LT).astype(np.float32).astype(np.float64)
    is_lost_T = ((decay_LT > 0) & (applied_LT == 0)).any(axis=0)
    decay = decay_LT.sum()
    lost_share = 1 - applied_LT.sum() / decay if decay else 0.0
    is_notable = is_lost_T.any() or abs(lost_share) >= NOTABLE
    if not is_notable:
        return
    if is_lost_T.any():
        updates = f"{is_lost_T.sum()} of {is_lost_T.size} updates ({_ranges(is_lost_T)})"
        rounding = f"rounds to 1 at {updates}"
    else:
        rounding = f"is rounded in steps of 2^-24 that are coarse beside {decay_LT.max():.1g}"
    change = "lost" if lost_share >= 0 else "added"
    yield (
        f"optimizer.weight_decay: in float32, 1 - lr weight_decay {rounding}: "
        f"{100 * abs(lost_share):.3g} % of the run's decay is {change}; "
        'optimizer.decay_form = "step" keeps it in the mean'
    )


def _ranges(is_chosen_T: NDArray[np.bool_]) -> str:
    """The updates that are chosen, in words: "0 to 3, 7 to 9"."""
    padded = np.concatenate([[False], is_chosen_T, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded)).reshape(-1, 2)
    stretches = [
        f"{begin}" if end - begin == 1 else f"{begin} to {end - 1}" for begin, end in edges.tolist()
    ]
    more = f" and {len(stretches) - 3} more stretches" if len(stretches) > 3 else ""
    return ", ".join(stretches[:3]) + more
