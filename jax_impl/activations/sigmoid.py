"""Sigmoid."""

import jax

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """1 / (1 + exp(-z)), any shape."""
    return jax.nn.sigmoid(z)
