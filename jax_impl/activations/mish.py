"""Mish."""

import jax

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """z tanh(softplus(z)), any shape."""
    return jax.nn.mish(z)
