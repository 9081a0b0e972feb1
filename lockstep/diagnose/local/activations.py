"""Which activation a layer is, from its own input and output.

Each known function of the input is subtracted from the output. What is left of the right one is
rounding, with no bias; of a wrong one it is the difference of two functions, which thousands of
elements show where no single one does, as of GELU and its tanh form in bfloat16.
"""

from typing import NamedTuple

import numpy as np

from lockstep.diagnose.local.difference import SURE
from lockstep.diagnose.local.layer_calls import LayerCall
from lockstep.oracle.activations import activate
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe.activations import ACTIVATIONS

__all__ = ["ActivationFit", "fit_activation", "share_of"]

STAYS = 4.0
"""Unit roundoffs of the coarsest dtype that the right function may be off by, relative to the
output's size, in the root of the mean square."""
QUARTER = 0.25
"""The largest share of another function that is nearer to none than to all."""
FEWEST = 64
"""Elements that tell, at least."""


class ActivationFit(NamedTuple):
    """The activation that a layer is: its name, its input, and what it leaves of the output."""

    kind: str
    source: str
    z: Array
    residual: float


def fit_activation(call: LayerCall) -> ActivationFit | None:
    """The function that comes nearest to the output; None where none is within rounding of it.

    The input that it takes becomes the call's one input.
    """
    if call.parameters or call.output.size < FEWEST:
        return None
    size = np.sqrt(np.square(call.output).mean())
    best: ActivationFit | None = None
    for source, z in call.same_shape().items():
        if not np.isfinite(z).all():
            continue
        for kind in ACTIVATIONS:
            gap = activate(kind, z, Exact()) - call.output
            residual = float(np.sqrt(np.square(gap).mean()) / size) if size else np.inf
            if best is None or residual < best.residual:
                best = ActivationFit(kind, source, z, residual)
    if best is None or not best.residual <= STAYS * max(call.unit, call.low):
        return None
    call.inputs = {best.source: best.z}
    return best


def share_of(other: str, fit: ActivationFit, output: Array) -> tuple[float, float] | None:
    """How much of another kind an output has, and the standard error of it.

    The output is f + c (g - f) and rounding, f being the fitted function and g the other; c is the
    share. Elements are weighted by the rounding that those of their size have, as the residuals
    show it.

    Returns:
        None where f and g cannot be told apart, or where the output is not surely f's.
    """
    f = activate(fit.kind, fit.z, Exact())
    step = activate(other, fit.z, Exact()) - f
    off = output - f
    weight = 1 / _variances(output, off)
    information = (weight * np.square(step)).sum()
    if not information > 0:
        return None
    share = float((weight * step * off).sum() / information)
    error = float(1 / np.sqrt(information))
    if abs(share) > QUARTER or 1 - abs(share) < SURE * error:
        return None
    return share, error


def _variances(output: Array, off: Array) -> Array:
    """The variance of the residuals of elements that are as large, by powers of 2."""
    exponent = np.frexp(np.abs(output))[1]
    bins, place = np.unique(exponent, return_inverse=True)
    place = place.reshape(output.shape)
    squares = np.bincount(place.ravel(), np.square(off).ravel(), len(bins))
    counts = np.bincount(place.ravel(), minlength=len(bins))
    mean = squares / counts
    # a bin of few elements, or of residuals that happen to be 0, is no surer than half a unit of it
    least = np.square(2.0 ** (bins - 26.0))
    return np.asarray(np.maximum(mean, least)[place])
