"""The exponential moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lockstep.data_prep import Parameters
from lockstep.recipe import Average

from .model import export_parameters

__all__ = ["export_average", "start_average", "update_average"]


def start_average(average: Average, parameters: Any) -> Any:
    """The average before the first update; None where the recipe keeps none."""
    if average.decay == 0:
        return None
    # a copy: the state never holds one array twice
    return jax.tree.map(jnp.zeros_like if average.start == "zero" else jnp.copy, parameters)


def update_average(average: Average, kept: Any, parameters: Any) -> Any:
    """decay * average + (1 - decay) * parameters, with those that the update has just made."""
    return None if kept is None else optax.incremental_update(parameters, kept, 1 - average.decay)


def export_average(average: Average, kept: Any, updates: int) -> Parameters:
    """The average to read after that many updates, in canonical names and layout; empty where none
    is kept.
    """
    found = {} if kept is None else export_parameters(kept)
    # not left to the framework: PyTorch has no bias correction, and 1 - decay^updates cancels in
    # float32
    weight = 1 - average.decay**updates if average.debias and updates else 1.0
    return {name: array / weight for name, array in found.items()}
