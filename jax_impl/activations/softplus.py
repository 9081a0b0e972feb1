"""Softplus."""

import jax

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """log(1 + exp(z)), any shape."""
    return jax.nn.softplus(z)
