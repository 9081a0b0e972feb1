"""Tanh."""

import jax
import jax.numpy as jnp

__all__ = ["activate"]


def activate(z: jax.Array) -> jax.Array:
    """tanh(z), any shape."""
    return jnp.tanh(z)
