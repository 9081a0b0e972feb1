"""The cross entropy of K classes."""

import jax
import jax.numpy as jnp
import optax

from lockstep.data_prep import IGNORED
from lockstep.recipe import CrossEntropy

__all__ = ["mean_loss"]


def mean_loss(
    loss: CrossEntropy, outputs_BK: jax.Array, y_B: jax.Array, count: jax.Array | int
) -> jax.Array:
    """Mean over those of the first `count` rows that count; classes (B,) are int32."""
    # Optax knows no ignored label and takes -1 for the last class
    counts_B = (jnp.arange(len(y_B)) < count) & (y_B != IGNORED)
    y_B = jnp.maximum(y_B, 0)
    weight_K = jnp.asarray(loss.class_weights or (1.0,) * outputs_BK.shape[-1], outputs_BK.dtype)
    weight_B = jnp.where(counts_B, weight_K[y_B], 0.0)
    if loss.label_smoothing:
        labels_BK = jax.nn.one_hot(y_B, outputs_BK.shape[-1], dtype=outputs_BK.dtype)
        labels_BK = weight_K * optax.smooth_labels(labels_BK, loss.label_smoothing)
        loss_B = optax.softmax_cross_entropy(outputs_BK, labels_BK, axis=-1)
    else:
        # by number: with one-hot labels, a logit of -inf would be multiplied by 0
        loss_B = optax.softmax_cross_entropy_with_integer_labels(outputs_BK, y_B, axis=-1)
        loss_B = weight_B * loss_B if loss.class_weights else loss_B
    return jnp.sum(jnp.where(counts_B, loss_B, 0.0)) / jnp.sum(weight_B)
