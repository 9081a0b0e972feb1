"""Tanh: tanh(z)."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return arithmetic.round(np.tanh(z))


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    return arithmetic.near(1 - np.tanh(z) ** 2, 1.0)
