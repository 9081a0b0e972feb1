"""The learning rate of an update, looked up in the one closed form that both frameworks are fed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

__all__ = ["applied_rates", "make_schedule"]


def make_schedule(table_T: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Update, counted from 0 -> its learning rate; an Optax schedule.

    A table and not a formula: under jit, Optax's own float32 schedules miss the closed form by up
    to
    thousands of units in the last place. Past the last update the last rate holds.
    """
    return lambda update: table_T.at[update].get(mode="clip")


def applied_rates(table_T: NDArray[Any]) -> NDArray[Any]:
    """What plain SGD over the gradient 1 takes from a parameter at 0 in each update: the learning
    rates as applied.
    """
    parameter = jnp.zeros((), table_T.dtype)
    schedule = make_schedule(jnp.asarray(table_T))
    transformation = optax.sgd(schedule, momentum=None, nesterov=False, accumulator_dtype=None)

    def update(state: optax.OptState, _: None) -> tuple[optax.OptState, jax.Array]:
        step, state = transformation.update(jnp.ones_like(parameter), state, parameter)
        return state, optax.apply_updates(parameter, step)

    _, parameter_T = jax.lax.scan(update, transformation.init(parameter), None, length=len(table_T))
    rates_T: NDArray[Any] = 0 - np.asarray(parameter_T)
    return rates_T
