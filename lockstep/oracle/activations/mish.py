"""Mish: z tanh(softplus(z)) (Misra, arXiv:1908.08681)."""

import numpy as np

from lockstep.oracle.activations.parts import sigmoid, size_of
from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return arithmetic.round(z * np.tanh(np.logaddexp(z, 0.0)))


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    size = size_of(z)
    share = sigmoid(z)
    inner = np.tanh(np.logaddexp(z, 0.0))
    bend = share * (1 - inner) * (1 + inner)
    return arithmetic.near(inner + z * bend, inner + size * share + size**2 * bend)
