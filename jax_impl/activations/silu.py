"""SiLU."""

import jax

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """z sigmoid(z), any shape."""
    return jax.nn.silu(z)
