"""Softplus: log(1 + exp(z))."""

import numpy as np

from lockstep.oracle.activations.parts import sigmoid, size_of
from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return arithmetic.round(np.logaddexp(z, 0.0))


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    size = size_of(z)
    share = sigmoid(z)
    return arithmetic.near(share, share * (1 + size))  # as exp(z - softplus(z))
