"""Which parameters share a learning rate, and which decay: the groups of an optimizer, by canonical names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.recipe import Optimizer, Recipe
from lockstep.schedules import learning_rates

__all__ = ["DECOUPLED", "decays", "is_weight", "layer_of", "rate_of", "rate_tables"]

DECOUPLED = frozenset({"adamw", "nadamw", "lamb", "lion", "adafactor", "muon"})
"""Optimizers whose weight decay acts on the parameters; in all others it is added to the gradient (L2)."""


def layer_of(name: str) -> int:
    """The layer of a parameter, counted from 1: 2 for "linear2.weight" as for "norm2.bias"."""
    module = name.partition(".")[0]
    return int(module.lstrip("abcdefghijklmnopqrstuvwxyz"))


def decays(optimizer: Optimizer, name: str) -> bool:
    """Whether weight decay acts on a parameter."""
    if not optimizer.weight_decay:
        return False
    return optimizer.decay_on == "all" or is_weight(name)


def is_weight(name: str) -> bool:
    """Whether a parameter is the weight of a linear layer; it may have its Flax name, "linear1.kernel"."""
    return name.startswith("linear") and not name.endswith("bias")


def rate_of(optimizer: Optimizer, name: str) -> int:
    """The key of `rate_tables` that a parameter is trained at."""
    return layer_of(name) if optimizer.multipliers else 0


def rate_tables(recipe: Recipe, updates_per_epoch: int) -> dict[int, NDArray[Any]]:
    """The learning rate of every update: 0 -> the schedule's, and with multipliers layer -> the layer's.

    Returns:
        arrays (T,) in the recipe's dtype: the float64 rate times the float64 multiplier, rounded once.

    Raises:
        InputError: a warmup longer than the run.
    """
    rates_T = learning_rates(recipe, updates_per_epoch)
    factors = dict(enumerate(recipe.optimizer.multipliers, start=1))
    return {
        layer: (rates_T * np.float64(factor)).astype(recipe.dtype) for layer, factor in ({0: 1.0} | factors).items()
    }
