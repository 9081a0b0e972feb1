"""SiLU: z sigmoid(z)."""

from lockstep.oracle.activations.parts import sigmoid, size_of
from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return arithmetic.round(z * sigmoid(z))


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    size = size_of(z)
    share = sigmoid(z)
    return arithmetic.near(share * (1 + z * sigmoid(-z)), share * (1 + size))
