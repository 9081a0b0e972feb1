"""Sigmoid: 1 / (1 + exp(-z))."""

from lockstep.oracle.activations.parts import sigmoid
from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return arithmetic.round(sigmoid(z))


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    share = sigmoid(z)
    return arithmetic.near(share * sigmoid(-z), share)
