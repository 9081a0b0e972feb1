"""LeakyReLU(0.01)."""

import jax
import jax.numpy as jnp

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """z above 0, and 0.01 z below, any shape."""
    # jax.nn.leaky_relu has slope 1 at 0, PyTorch 0.01
    return jnp.where(z > 0, z, 0.01 * z)
