"""GELU: z Phi(z), Phi being the distribution function of the normal distribution (Hendrycks &
Gimpel, arXiv:1606.08415).
"""

import numpy as np

from lockstep.oracle.activations.parts import normal
from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return arithmetic.near(z * normal(z), np.abs(z))  # as z / 2 (1 + erf)


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    return arithmetic.near(normal(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), 1.0)
