"""GELU."""

import jax

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """z Phi(z), Phi being the normal distribution function, any shape."""
    return jax.nn.gelu(z, approximate=False)
