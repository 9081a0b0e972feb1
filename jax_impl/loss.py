"""Mean cross entropy over the rows that count."""

import jax
import jax.numpy as jnp
import optax

__all__ = ["accuracy", "cross_entropy"]


def cross_entropy(logits_BK: jax.Array, y_B: jax.Array, count: jax.Array | int) -> jax.Array:
    """Mean over the first `count` rows of -log softmax(logits)[y]; the rows after them are padding."""
    # a mask and not a slice: every batch of a scan has one shape
    loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, y_B)
    counts_B = jnp.arange(len(y_B)) < count
    return jnp.sum(jnp.where(counts_B, loss_B, 0.0)) / jnp.asarray(count, loss_B.dtype)


def accuracy(logits_BK: jax.Array, y_B: jax.Array) -> jax.Array:
    """Share of rows whose largest logit is that of the right class."""
    return jnp.mean(logits_BK.argmax(axis=-1) == y_B)
