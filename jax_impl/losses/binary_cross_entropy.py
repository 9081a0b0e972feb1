"""The cross entropy of 2 classes by one logit."""

import jax
import jax.numpy as jnp
import optax

from jax_impl.losses.parts import mean_of
from lockstep.recipe import BinaryCrossEntropy

__all__ = ["mean_loss"]


def mean_loss(
    loss: BinaryCrossEntropy, outputs_BK: jax.Array, y_B: jax.Array, count: jax.Array | int
) -> jax.Array:
    """Mean over the first `count` rows; classes (B,) are int32."""
    output_B = outputs_BK[:, 0]
    weight_B = jnp.where(y_B == 1, jnp.asarray(loss.positive_weight, output_B.dtype), 1.0)
    loss_B = weight_B * optax.sigmoid_binary_cross_entropy(output_B, y_B)
    return mean_of(loss_B, count)
