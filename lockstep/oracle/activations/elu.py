"""ELU with alpha = 1: z above 0, and exp(z) - 1 below."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return np.where(z > 0, z, arithmetic.round(np.expm1(np.minimum(z, 0.0))))


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    return np.where(z > 0, 1.0, arithmetic.near(np.exp(np.minimum(z, 0.0)), 1.0))  # as elu(z) + 1
