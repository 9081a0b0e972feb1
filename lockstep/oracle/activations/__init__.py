"""The activations and their slopes, by hand: one file for each.

A rounding is as large as a framework's own formula makes it. Where that formula cancels, as
1 - tanh(z)^2 does, its size is that of the terms and not of the result. A function that comes to
its limit in the dtype (tanh, the sigmoid) errs no further from there on: beyond `SATURATED` nothing
grows with z.
"""

from importlib import import_module

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe.activations import ACTIVATIONS

__all__ = ["activate", "slope_of"]

MODULES = {name: import_module(f"{__name__}.{name}") for name in ACTIVATIONS}


def activate(name: str, z: Array, arithmetic: Exact) -> Array:
    """The activation of a layer's input z, any shape."""
    value: Array = MODULES[name].activate(z, arithmetic)
    return value


def slope_of(name: str, z: Array, arithmetic: Exact) -> Array:
    """The derivative at z. At a kink it is the one from below, in both frameworks: 0 for relu, 0.01
    for leaky_relu.
    """
    slope: Array = MODULES[name].slope_of(z, arithmetic)
    return slope
