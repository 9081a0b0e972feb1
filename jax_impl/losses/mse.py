"""The squared error."""

import jax
import optax

from jax_impl.losses.parts import mean_of
from lockstep.recipe import SquaredError

__all__ = ["mean_loss"]


def mean_loss(
    loss: SquaredError, outputs_BK: jax.Array, y_B: jax.Array, count: jax.Array | int
) -> jax.Array:
    """Mean over the first `count` rows; numbers (B,) are floats."""
    loss_B = optax.squared_error(outputs_BK[:, 0], y_B)
    return mean_of(loss_B, count)
