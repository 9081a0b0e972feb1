"""The exponential moving average of the parameters."""

import jax
import jax.numpy as jnp
import optax

from lockstep.data_prep import Parameters
from lockstep.recipe import Average

from .model import export_parameters

__all__ = ["export_average", "start_average", "update_average"]


def start_average(average: Average, parameters: optax.Params) -> optax.Params | None:
    """The average before the first update; None if the recipe has none."""
    if average.decay == 0:
        return None
    # a copy: the state never holds one array twice
    return jax.tree.map(jnp.zeros_like if average.start == "zero" else jnp.copy, parameters)


def update_average(
    average: Average, running: optax.Params | None, parameters: optax.Params
) -> optax.Params | None:
    """decay * running + (1 - decay) * parameters, the parameters after the update."""
    if running is not None:
        running = optax.incremental_update(parameters, running, 1 - average.decay)
    return running


def export_average(average: Average, running: optax.Params | None, updates: int) -> Parameters:
    """The average to read after that many updates, as canonical arrays; empty if there is none."""
    parameters = {} if running is None else export_parameters(running)
    # not left to the framework: PyTorch has no bias correction, and 1 - decay^updates cancels in
    # float32
    weight = 1 - average.decay**updates if average.debias and updates else 1.0
    return {name: array / weight for name, array in parameters.items()}
