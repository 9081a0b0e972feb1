"""The eps of a normalisation, from its own input and output.

A norm without eps gives t = (x - mean) / sqrt(v), and with it s t, where s = sqrt(v / (v + eps)).
The output, its scale and shift undone, gives s of each group that is normalised by least squares,
and eps = v (1 / s^2 - 1): of one group with the error 2 v ds. Thousands of elements give s to far
less than one of their roundings. Where the output was rounded once, to a low dtype, each element
says between which values s lies, and what they all allow is narrower still.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.local.difference import NEAR, likely
from lockstep.diagnose.local.layer_calls import LayerCall
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.units import FLOAT32
from lockstep.oracle.arithmetic import Array

__all__ = ["likely_eps", "measure_eps"]

STAYS = 64.0
"""Unit roundoffs of the output, relative, that a norm's recomputed output may be off by. What is
no norm of the input is off by its whole size."""
SYSTEMATIC = 2.0
"""Unit roundoffs of float32 by which the root of a variance may be off in all groups alike: a
reciprocal square root is right to one or two."""
CONSISTENT = 9.0
"""The squares of the groups' deviations from one eps, over their expected size, in the mean. What
is scaled otherwise in each group is no norm."""
SIX = 6.0
"""Errors within which two ways to measure one number must agree."""
TELLS = 0.05
"""Elements nearer to their group's mean than so many deviations say nothing of the slope."""
MACHINE_EPS = 1.192e-07
"""torch.finfo(torch.float32).eps, the eps of RMSNorm where none is given."""
SMALL = 1e-3
"""A scale below this, over the largest, leaves a column with roundings alone."""


def likely_eps(value: float, error: float) -> float:
    """An eps as somebody may have written it, or left it to PyTorch's RMSNorm: `MACHINE_EPS`."""
    is_near = abs(value - MACHINE_EPS) <= NEAR * error
    return MACHINE_EPS if is_near and NEAR * error < MACHINE_EPS / 2 else likely(value, error)


class _Groups(NamedTuple):
    """What is normalised together: x and y as (G, C), y with its scale and shift undone, and half a
    unit in the last place of each of its elements.
    """

    x: Array
    y: Array
    half: Array
    is_centred: bool

    def each(self, change: Callable[[Array], Array]) -> "_Groups":
        """These groups with a change of shape applied to each array."""
        return _Groups(change(self.x), change(self.y), change(self.half), self.is_centred)


class _Fit(NamedTuple):
    """An eps, its standard error, and how far the output is off, relative."""

    eps: float
    error: float
    residual: float


def measure_eps(call: LayerCall, update: int) -> Measurement | None:
    """The eps of a layer that normalises; None where it is no norm of any input.

    The input that fits best becomes the call's one input.

    Args:
        call: of a layer whose parameters are vectors, or that has none.
        update: counted from 0.
    """
    if any(array.ndim > 1 for array in call.parameters.values()) or call.output.ndim < 2:
        return None
    best: tuple[str, _Fit] | None = None
    for name, x in call.same_shape().items():
        for groups in _groupings(x, call):
            fit = _fit(groups, call)
            if fit is not None and (best is None or fit.residual < best[1].residual / 2):
                best = name, fit
    if best is None:
        return None
    name, fit = best
    call.inputs = {name: call.inputs[name]}
    return Measurement("forward", call.name, update, "eps", fit.eps, fit.error, "layernorm-eps")


def _groupings(x: Array, call: LayerCall) -> Iterator[_Groups]:
    """The groups of a layer, RMS, group, instance or batch norm."""
    for axis in dict.fromkeys((x.ndim - 1, 1)):
        plain = _undone(np.moveaxis(call.output, axis, -1), call)
        if plain is None:
            continue
        y, half = plain
        parts = _Groups(np.moveaxis(x, axis, -1), y, half, True)
        rows = parts.each(lambda part: part.reshape(-1, part.shape[-1]))
        if axis == x.ndim - 1:
            yield rows
            yield rows._replace(is_centred=False)
        if not call.is_part:
            yield rows.each(np.transpose)
        channels = x.shape[axis]
        for groups in range(1, channels + 1):
            if x.ndim > 2 and channels % groups == 0:
                yield parts.each(partial(_in_blocks, groups=groups))


def _in_blocks(array: Array, groups: int) -> Array:
    """An array (B, ..., C) as (B groups, ...): of each example so many groups of its channels."""
    examples, channels = array.shape[0], array.shape[-1]
    blocks = array.reshape(examples, -1, groups, channels // groups)
    return blocks.transpose(0, 2, 1, 3).reshape(examples * groups, -1)


def _affine(call: LayerCall) -> tuple[Array | None, Array | None]:
    """The scale and the shift of a norm; a running statistic is neither."""
    shift = None
    scale = None
    for role, vector in call.parameters.items():
        if any(word in role for word in ("mean", "var", "num_batches")) or vector.ndim != 1:
            continue
        if "bias" in role or "beta" in role or "offset" in role:
            shift = vector
        else:
            scale = vector
    return scale, shift


def _undone(y: Array, call: LayerCall) -> tuple[Array, Array] | None:
    """The output (..., C) without its scale and shift, and half a unit in the last place of it;
    None where these do not fit, or leave nothing of a column.
    """
    half = call.unit * 2.0 ** (np.frexp(y)[1] - 1)
    scale, shift = _affine(call)
    if any(vector is not None and len(vector) != y.shape[-1] for vector in (scale, shift)):
        return None
    if shift is not None:
        y = y - shift
    if scale is None:
        return y, half
    for factor in (scale, 1 + scale):  # a scale may be kept as its difference from 1
        size = np.abs(factor)
        if size.all() and (size >= SMALL * size.max()).all():
            return y / factor, half / size
    return None


def _fit(groups: _Groups, call: LayerCall) -> _Fit | None:
    """The eps of these groups, where they are a norm's."""
    if groups.x.shape[1] < 2 or not np.isfinite(groups.x).all() or not np.isfinite(groups.y).all():
        return None
    centred = groups.x
    if groups.is_centred:
        centred = centred - centred.mean(axis=1, keepdims=True)
    variance_G = np.square(centred).mean(axis=1)
    is_alive = variance_G > 0
    if not is_alive.any():
        return None
    variance_G = variance_G[is_alive]
    standard = centred[is_alive] / np.sqrt(variance_G)[:, None]
    y, half = groups.y[is_alive], groups.half[is_alive]
    slope_G = (standard * y).mean(axis=1)  # the mean square of `standard` is 1
    off = y - slope_G[:, None] * standard
    size = float(np.sqrt(np.square(y).mean()))
    deviation = float(np.sqrt(np.square(off).mean()))
    worst = STAYS * max(call.unit, call.low)
    # eps can only shrink what is normalised: a slope above 1 by more than rounding is no norm
    if not deviation <= worst * size or slope_G.min() <= 0 or slope_G.max() > 1 + worst:
        return None
    if _is_a_constant_times(groups.x[is_alive], y, deviation):
        return None
    eps_G = variance_G * (1 / np.square(slope_G) - 1)
    reach_G = 2 * variance_G / slope_G**3  # d eps / d slope
    weight_G = 1 / np.square(reach_G)
    total = weight_G.sum()
    eps = float((weight_G * eps_G).sum() / total)
    squares = float((weight_G * np.square(eps_G - eps)).sum())
    least = max(deviation, call.unit / 2 * size)
    # a group's slope errs by the roundings of its elements, and of its root in the coarsest dtype
    of_slope = least**2 / y.shape[1] + (SYSTEMATIC * max(call.unit, call.low)) ** 2
    if squares > CONSISTENT * len(eps_G) * of_slope:
        return None
    formal = least / np.sqrt(y.shape[1] * total)
    scatter = np.sqrt(squares / total / max(len(eps_G) - 1, 1))
    # a scale that was rounded is that of all groups: it shows in the gains of single columns
    gains = (standard * off).mean(axis=0) / np.square(standard).mean(axis=0)
    shared = np.hypot(SYSTEMATIC * min(call.unit, FLOAT32), gains.std() / np.sqrt(len(gains)))
    systematic = shared * float((weight_G * reach_G).sum() / total)
    error = float(np.hypot(max(formal, scatter), systematic))
    residual = deviation / size
    between = _between(standard, y, half, variance_G) if call.unit > FLOAT32 else None
    if between is not None and abs(between[0] - eps) <= SIX * error:
        return _Fit(*between, residual)
    return _Fit(eps, error, residual)


def _between(
    standard: Array, y: Array, half: Array, variance_G: Array
) -> tuple[float, float] | None:
    """The eps that all elements allow, rounded once, and its error; None where there is none."""
    tells = np.abs(standard) > TELLS
    divisor = np.where(tells, standard, 1.0)
    middle = np.where(tells, y / divisor, 0.0)
    # what is not rounded to the low dtype is in float32
    width = np.where(tells, (half + SIX * FLOAT32 * np.abs(y)) / np.abs(divisor), np.inf)
    low_G = (middle - width).max(axis=1)
    high_G = (middle + width).min(axis=1)
    if (low_G <= 0).any() or (low_G > high_G).any():
        return None
    least = float((variance_G * (1 / np.square(high_G) - 1)).max())
    most = float((variance_G * (1 / np.square(low_G) - 1)).min())
    if least > most:
        return None
    # all between the two is alike: three errors reach to either end
    return (least + most) / 2, (most - least) / 2 / 3


def _is_a_constant_times(x: Array, y: Array, deviation: float) -> bool:
    """Whether one factor and one offset lead from x to y as well as a norm does: as of a layer that
    passes its input on. A norm whose groups vary alike cannot be told from it.
    """
    flat = np.stack([x.ravel(), np.ones(x.size)], axis=1)
    factor, *_ = np.linalg.lstsq(flat, y.ravel(), rcond=None)
    off = np.sqrt(np.square(flat @ factor - y.ravel()).mean())
    return bool(off <= 2 * deviation)
