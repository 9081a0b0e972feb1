"""Mean cross entropy over the rows that count."""

import jax
import jax.numpy as jnp
import optax

__all__ = ["cross_entropy", "right_answers"]


def cross_entropy(logits_BK: jax.Array, y_B: jax.Array, count: jax.Array | int) -> jax.Array:
    """Mean over the first `count` rows of -log softmax(logits)[y]; the rows after them are padding."""
    # a mask and not a slice: every batch of a scan has one shape
    loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, y_B)
    counts_B = jnp.arange(len(y_B)) < count
    return jnp.sum(jnp.where(counts_B, loss_B, 0.0)) / jnp.asarray(count, loss_B.dtype)


def right_answers(logits_BK: jax.Array, y_B: jax.Array) -> jax.Array:
    """How many rows have their largest logit at the right class."""
    return (logits_BK.argmax(axis=-1) == y_B).sum()
