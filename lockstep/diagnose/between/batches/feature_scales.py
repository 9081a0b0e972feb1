"""Features of one loop that are the other's times a factor, plus a shift: of all, of each column,
or of each channel; with the reason where the numbers give one.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.batches.arrays import batch_of, noun, unit_of_batch
from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair
from lockstep.numbers import factor as factor_text
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array

__all__ = ["affine", "rounded"]

ROUNDINGS = 64.0
"""Unit roundoffs, relative to the largest value, that an affine relation may be off by."""
FEWEST_ROWS = 4
"""Rows from which two numbers for each column are fitted."""
FEWEST = 12
MOST_ROWS = 10**7
NEAR_ROWS = 0.02
"""How well the number of rows must be known that is taken for a whole one."""
SURE = 4.0
"""Standard errors of a fitted factor."""
SAME = 1e-6
STANDARD_PAGE = "std-divides-by-n"
SCALE_PAGE = "features-scaled-otherwise"


class Scale(NamedTuple):
    """mine = factor * other + shift, by groups of columns: both (groups,)."""

    factor: Array
    shift: Array
    error: float
    of: str


NORMALISATIONS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "the mean and deviation of ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "the mean and deviation of ImageNet in the order BGR": (
        (0.406, 0.456, 0.485),
        (0.225, 0.224, 0.229),
    ),
    "the mean and deviation of CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "the mean and deviation of CIFAR-10 (0.2023, ...)": (
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),
    "the mean and deviation of CLIP": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "the mean 0.1307 and the deviation 0.3081 of MNIST": ((0.1307,), (0.3081,)),
    "a mean and a deviation of 0.5": ((0.5,), (0.5,)),
    "no mean and deviation (values from 0 to 1)": ((0.0,), (1.0,)),
    "no mean and deviation (values from 0 to 255)": ((0.0,), (1 / 255,)),
}
"""In words -> mean and deviation of each channel, of values from 0 to 1."""


def rounded(pair: LoopPair) -> Iterator[Explanation]:
    """That a side's features are the other's rounded to fewer bits."""
    mine, other = batch_of(pair.mine, pair.update), batch_of(pair.other, pair.update)
    differing = pair.differing("batch")
    for name in differing:
        if mine[name].dtype.kind != "f" or other[name].dtype.kind != "f":
            continue
        for dtype, low in _rounded(other[name]):
            if np.array_equal(low, mine[name]):
                text = (
                    f"{pair.mine.name}'s {noun(name, mine[name])} are {pair.other.name}'s rounded "
                    f"to {dtype}"
                )
                page = "float64-becomes-float32"
                is_part = len(differing) > 1
                yield Explanation(
                    "features-rounded", text, {name: low}, "rounding", page, is_part=is_part
                )
                break


def _rounded(array: Array) -> Iterator[tuple[str, Array]]:
    yield "float32", array.astype(np.float32).astype(np.float64)
    bits = array.astype(np.float32).view(np.uint32)
    even = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    low = (even & np.uint32(0xFFFF0000)).view(np.float32)
    yield "bfloat16", low.astype(np.float64)
    yield "float16", array.astype(np.float16).astype(np.float64)
    yield "whole numbers", np.round(array)
    yield "whole numbers, cut off", np.trunc(array)


def affine(pair: LoopPair) -> Iterator[Explanation]:
    """That a side's features are the other's times a factor, plus a shift."""
    mine, other = batch_of(pair.mine, pair.update), batch_of(pair.other, pair.update)
    differing = pair.differing("batch")
    for name in differing:
        x, z = mine[name], other[name]
        if x.ndim < 1 or x.size < FEWEST or "f" not in (x.dtype.kind, z.dtype.kind):
            continue
        x, z = x.astype(np.float64), z.astype(np.float64)
        near = ROUNDINGS * unit_of_batch(pair, name)
        for of, axes in _groupings(x):
            scale = _fitted(x, z, axes, of, near)
            if scale is None:
                continue
            text, page = _text(pair, noun(name, mine[name]), scale)
            predicted = {name: _applied(scale, z, axes)}
            is_part = len(differing) > 1
            yield Explanation(
                "features-scaled", text, predicted, "a factor and a shift", page, is_part=is_part
            )
            break


def _groupings(x: Array) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What may share a factor and a shift, and the axes that it goes along."""
    yield "all", tuple(range(x.ndim))
    if x.ndim > 2:
        yield "channel", (0, *range(2, x.ndim))
        yield "channel", tuple(range(x.ndim - 1))
    if x.ndim > 1 and len(x) >= FEWEST_ROWS:
        yield "column", (0,)


def _fitted(x: Array, z: Array, axes: tuple[int, ...], of: str, near: float) -> Scale | None:
    """The factor and shift of each group by least squares; None where they leave more than
    rounding does, or are 1 and 0.
    """
    if not (np.isfinite(x).all() and np.isfinite(z).all()):
        return None
    with np.errstate(all="ignore"):
        mean_x = x.mean(axis=axes, keepdims=True)
        mean_z = z.mean(axis=axes, keepdims=True)
        square = np.square(z - mean_z).sum(axis=axes, keepdims=True)
        factor = ((x - mean_x) * (z - mean_z)).sum(axis=axes, keepdims=True) / square
    constant = square <= 0
    factor = np.where(constant, 1.0, factor)
    shift = mean_x - factor * mean_z
    size = max(float(np.abs(x).max()), float(np.abs(factor * z).max()), float(np.abs(shift).max()))
    gap = float(np.abs(factor * z + shift - x).max())
    if not gap <= near * size or constant.all():
        return None
    spread = float(np.sqrt(square.sum()))
    # roundings of the elements are independent of one another, that of the factor is one for all
    left = float(np.sqrt(np.square(factor * z + shift - x).mean()))
    error = SURE * left / spread + near / ROUNDINGS if spread else np.inf
    live = ~constant
    return Scale(factor[live], shift[live], error, of)


def _applied(scale: Scale, z: Array, axes: tuple[int, ...]) -> Array:
    shape = [1 if axis in axes else z.shape[axis] for axis in range(z.ndim)]
    mean_z = z.mean(axis=axes, keepdims=True)
    live = np.square(z - mean_z).sum(axis=axes, keepdims=True) > 0
    factor, shift = np.ones(shape), np.zeros(shape)
    factor[live.reshape(shape)] = scale.factor
    shift[live.reshape(shape)] = scale.shift
    return np.asarray(factor * z + shift)


def _text(pair: LoopPair, what: str, scale: Scale) -> tuple[str, str]:
    """The sentence on a factor and a shift, and its page."""
    a, b = pair.mine.name, pair.other.name
    known = _normalisations(scale)
    if known:
        return f"{a}'s {what} are scaled by {known[0]}, {b}'s by {known[1]}", SCALE_PAGE
    factors, shifts = scale.factor, scale.shift
    is_one = float(np.ptp(factors)) <= SAME * float(np.abs(factors).max())
    size = float(np.abs(shifts).max())
    is_unshifted = size <= SAME * max(1.0, float(np.abs(factors).max()))
    if is_one and is_unshifted:
        return _of_one_factor(pair, what, scale)
    if is_one and len(shifts) == 1:
        factor = "" if abs(factors[0] - 1) <= SAME else f" times {factor_text(factors[0])}"
        sign = "plus" if shifts[0] > 0 else "minus"
        text = f"{a}'s {what} are {b}'s{factor} {sign} {number(abs(shifts[0]))}"
        return text, SCALE_PAGE
    least, most = float(factors.min()), float(factors.max())
    each = f"each {scale.of}" if scale.of != "all" else "all"
    text = (
        f"{a}'s {what} are standardised otherwise than {b}'s: {each} times a factor "
        f"({factor_text(least)} to {factor_text(most)})"
    )
    if not is_unshifted:
        text += f", and shifted ({number(float(shifts.min()))} to {number(float(shifts.max()))})"
    return text + ": the mean and deviation of other rows", SCALE_PAGE


def _of_one_factor(pair: LoopPair, what: str, scale: Scale) -> tuple[str, str]:
    """The sentence on one factor of everything."""
    factor = float(np.median(scale.factor))
    larger, smaller = pair.mine.name, pair.other.name
    if abs(factor) < 1:
        larger, smaller, factor = smaller, larger, 1 / factor
    rows = _rows_behind(factor, scale.error)
    if rows:
        text = (
            f"{larger}'s {what} are sqrt({rows}/{rows - 1}) = {factor:.6g} times {smaller}'s: the "
            f"deviation is divided by n = {rows}, not by n - 1"
        )
        return text, STANDARD_PAGE
    text = f"{larger}'s {what} are {factor_text(factor)} times {smaller}'s"
    if abs(factor - 255) <= SAME * 255:
        text += f": {larger} does not divide by 255, or {smaller} does so once more"
    return text, SCALE_PAGE


def _rows_behind(factor: float, error: float) -> int:
    """The n of a factor that is sqrt(n / (n - 1)), or 0."""
    excess = factor * factor - 1
    if excess <= 0:
        return 0
    rows = 1 + 1 / excess
    uncertain = 2 * error * rows * rows
    is_near = abs(rows - round(rows)) <= max(uncertain, SAME * rows)
    if 2 <= round(rows) <= MOST_ROWS and is_near and uncertain < NEAR_ROWS:
        return round(rows)
    return 0


def _normalisations(scale: Scale) -> tuple[str, str] | None:
    """The known means and deviations of both sides that give the relation, in words: mine, and the
    other's; None where none do.
    """
    channels = len(scale.factor)
    for (mine, (mean_a, std_a)), (other, (mean_b, std_b)) in product(
        NORMALISATIONS.items(), repeat=2
    ):
        sizes = {len(mean_a), len(mean_b)} - {1}
        if mine == other or (sizes and sizes != {channels}) or scale.of == "column":
            continue
        factor = np.divide(std_b, std_a)
        shift = np.subtract(mean_b, mean_a) / np.asarray(std_a)
        size = 1 + np.abs(shift).max()
        is_same = np.abs(factor - scale.factor).max() <= 10 * SAME * np.abs(factor).max()
        if is_same and np.abs(shift - scale.shift).max() <= 10 * SAME * size:
            return mine, other
    return None
