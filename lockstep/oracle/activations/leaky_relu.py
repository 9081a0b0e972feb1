"""LeakyReLU(0.01): z above 0, and 0.01 z below."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]

LEAK = 0.01
"""The slope at and below 0."""


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    leak = arithmetic.round(arithmetic.constant("leak", LEAK) * z)
    return np.where(z > 0, z, leak)


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z; at 0 the one from below."""
    return np.where(arithmetic.positive(z), 1.0, arithmetic.constant("leak", LEAK))
