"""Softsign: z / (1 + |z|)."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return arithmetic.round(z / arithmetic.round(1 + np.abs(z)))


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    share = arithmetic.round(1 / arithmetic.round(1 + np.abs(z)))
    return arithmetic.near(share**2, share)  # as share - |z| share^2
