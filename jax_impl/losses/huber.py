"""Huber's loss."""

import jax
import optax

from jax_impl.losses.parts import mean_of
from lockstep.recipe import Huber

__all__ = ["mean_loss"]


def mean_loss(
    loss: Huber, outputs_BK: jax.Array, y_B: jax.Array, count: jax.Array | int
) -> jax.Array:
    """Mean over the first `count` rows; numbers (B,) are floats."""
    loss_B = optax.huber_loss(outputs_BK[:, 0], y_B, delta=loss.delta)
    return mean_of(loss_B, count)
