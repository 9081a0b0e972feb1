"""GELU(tanh)."""

import jax

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2, the approximation of gelu, any shape."""
    return jax.nn.gelu(z, approximate=True)
