"""GELU(tanh): z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2, the approximation of gelu."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["activate", "slope_of"]

CUBIC = 0.044715
SCALE = np.sqrt(2 / np.pi)


def activate(z: Array, arithmetic: Exact) -> Array:
    """Its value at z, any shape."""
    return arithmetic.near(z * (0.5 + 0.5 * np.tanh(_cubic(z))), np.abs(z))


def slope_of(z: Array, arithmetic: Exact) -> Array:
    """Its derivative at z."""
    inner = np.tanh(_cubic(z))
    outer = 0.5 * z * SCALE * (1 + 3 * CUBIC * z**2)
    # from |z| = 7.5 on tanh is 1 in float64
    near = np.minimum(np.abs(z), 7.5)
    return arithmetic.near(
        0.5 + 0.5 * inner + outer * (1 - inner) * (1 + inner),
        1 + 0.5 * near * SCALE * (1 + 3 * CUBIC * near**2),
    )


def _cubic(z: Array) -> Array:
    return np.asarray(SCALE * (z + CUBIC * z**3))
