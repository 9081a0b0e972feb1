"""ReLU: max(z, 0)."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return np.maximum(z, 0.0)


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z; at 0 the one from below."""
    return np.asarray(arithmetic.positive(z), dtype=np.float64)
