"""The activations and their slopes, by hand.

Each rounding is as large as what a framework's own formula makes of it, so where that formula cancels, as 1 - tanh(z)^2
does, the size is that of the terms and not of the result. A function that comes to its limit in the dtype (tanh, the
sigmoid) errs no further from there on: beyond `SATURATED` nothing grows with z.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["LEAK", "activate", "slope_of"]

LEAK = 0.01
"""Slope of leaky_relu at and below 0."""

CUBIC, SCALE = 0.044715, np.sqrt(2 / np.pi)  # of gelu_tanh
SATURATED = 40.0
"""exp(-40) < 2^-53: from here on softplus(z) is z, and the sigmoid 1, in float64."""


def activate(name: str, z: Array, arithmetic: Exact) -> Array:
    """The activation of a layer's input z, any shape.

    leaky_relu: max(z, 0.01 z); silu: z sigmoid(z); gelu: z Phi(z), Phi being the normal distribution function
    (Hendrycks & Gimpel, arXiv:1606.08415), and gelu_tanh their approximation; elu: exp(z) - 1 below 0; softplus:
    log(1 + exp(z)); mish: z tanh(softplus(z)) (Misra, arXiv:1908.08681).
    """
    match name:
        case "relu":
            return np.maximum(z, 0.0)
        case "leaky_relu":
            leak = arithmetic.round(arithmetic.constant("leak", LEAK) * z)
            return np.where(z > 0, z, leak)
        case "tanh":
            return arithmetic.round(np.tanh(z))
        case "sigmoid":
            return arithmetic.round(_sigmoid(z))
        case "silu":
            return arithmetic.round(z * _sigmoid(z))
        case "gelu":
            return arithmetic.near(z * _normal(z), np.abs(z))  # as z / 2 (1 + erf)
        case "gelu_tanh":
            return arithmetic.near(z * (0.5 + 0.5 * np.tanh(_cubic(z))), np.abs(z))
        case "elu":
            return np.where(z > 0, z, arithmetic.round(np.expm1(np.minimum(z, 0.0))))
        case "softplus":
            return arithmetic.round(np.logaddexp(z, 0.0))
        case "mish":
            return arithmetic.round(z * np.tanh(np.logaddexp(z, 0.0)))
    raise ValueError(name)


def slope_of(name: str, z: Array, arithmetic: Exact) -> Array:
    """The derivative at z; at a kink that from below, in both frameworks: 0 for relu, 0.01 for leaky_relu."""
    size = np.minimum(np.abs(z), SATURATED)
    match name:
        case "relu":
            return np.asarray(arithmetic.positive(z), dtype=np.float64)
        case "leaky_relu":
            return np.where(arithmetic.positive(z), 1.0, arithmetic.constant("leak", LEAK))
        case "tanh":
            return arithmetic.near(1 - np.tanh(z) ** 2, 1.0)
        case "sigmoid":
            share = _sigmoid(z)
            return arithmetic.near(share * _sigmoid(-z), share)
        case "silu":
            share = _sigmoid(z)
            return arithmetic.near(share * (1 + z * _sigmoid(-z)), share * (1 + size))
        case "gelu":
            return arithmetic.near(_normal(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), 1.0)
        case "gelu_tanh":
            inner = np.tanh(_cubic(z))
            outer = 0.5 * z * SCALE * (1 + 3 * CUBIC * z**2)
            # from |z| = 7.5 on tanh is 1 in float64
            near = np.minimum(np.abs(z), 7.5)
            return arithmetic.near(
                0.5 + 0.5 * inner + outer * (1 - inner) * (1 + inner),
                1 + 0.5 * near * SCALE * (1 + 3 * CUBIC * near**2),
            )
        case "elu":
            return np.where(z > 0, 1.0, arithmetic.near(np.exp(np.minimum(z, 0.0)), 1.0))  # as elu(z) + 1
        case "softplus":
            share = _sigmoid(z)
            return arithmetic.near(share, share * (1 + size))  # as exp(z - softplus(z))
        case "mish":
            share, inner = _sigmoid(z), np.tanh(np.logaddexp(z, 0.0))
            bend = share * (1 - inner) * (1 + inner)
            return arithmetic.near(inner + z * bend, inner + size * share + size**2 * bend)
    raise ValueError(name)


def _cubic(z: Array) -> Array:
    return np.asarray(SCALE * (z + CUBIC * z**3))


def _sigmoid(z: Array) -> Array:
    from scipy import special  # takes longer to import than everything else here, and most recipes do without

    return np.asarray(special.expit(z))


def _normal(z: Array) -> Array:
    """The normal distribution function."""
    from scipy import special

    return np.asarray(special.ndtr(z))
