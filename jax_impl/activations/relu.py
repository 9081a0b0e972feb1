"""ReLU."""

import jax

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """max(z, 0), any shape."""
    return jax.nn.relu(z)
