"""What several losses share."""

import jax
import jax.numpy as jnp

__all__ = ["mean_of"]


def mean_of(loss_B: jax.Array, count: jax.Array | int) -> jax.Array:
    """Mean over the first `count` rows."""
    counts_B = jnp.arange(len(loss_B)) < count
    return jnp.sum(jnp.where(counts_B, loss_B, 0.0)) / jnp.asarray(count, loss_B.dtype)
