"""What several activations are made of."""

import numpy as np

from lockstep.oracle.arithmetic import Array

__all__ = ["SATURATED", "normal", "sigmoid", "size_of"]

SATURATED = 40.0
"""exp(-40) < 2^-53: from here on softplus(z) is z, and the sigmoid 1, in float64."""


def size_of(z: Array) -> Array:
    """|z|, and no more than `SATURATED`."""
    return np.minimum(np.abs(z), SATURATED)


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z))."""
    # scipy takes longer to import than everything else here, and most recipes do without
    from scipy import special

    return np.asarray(special.expit(z))


def normal(z: Array) -> Array:
    """The distribution function of the normal distribution, Phi(z)."""
    from scipy import special

    return np.asarray(special.ndtr(z))
