"""The learning rate of an update, looked up in the one closed form that both frameworks are fed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

__all__ = ["applied_rates", "make_schedule"]


def make_schedule(table_T: Array) -> Callable[[Array], Array]:
    """Update, counted from 0 -> its learning rate; an Optax schedule.

    Past the last update the last rate holds. A table and not a formula: under jit, Optax's own
    float32 schedules miss the closed form by up to thousands of units in the last place.
    """
    return lambda update: table_T.at[update].get(mode="clip")


def applied_rates(table_T: NDArray[Any]) -> NDArray[Any]:
    """The learning rates as applied (T,): what plain SGD subtracts where the gradient is 1."""
    parameter = jnp.zeros((), table_T.dtype)
    schedule = make_schedule(jnp.asarray(table_T))
    optimizer = optax.sgd(schedule, momentum=None, nesterov=False, accumulator_dtype=None)

    def update(state: optax.OptState, _: None) -> tuple[optax.OptState, Array]:
        step, state = optimizer.update(jnp.ones_like(parameter), state, parameter)
        return state, optax.apply_updates(parameter, step)

    _, parameter_T = jax.lax.scan(update, optimizer.init(parameter), None, length=len(table_T))
    rates_T: NDArray[Any] = 0 - np.asarray(parameter_T)
    return rates_T
