"""Which arrays hold the same numbers, in whatever layout."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.naming.layouts import Arrays, Layout, Values, layouts

__all__ = [
    "CLOSE",
    "Sums",
    "alike",
    "closest",
    "direction",
    "distance",
    "distinct_layouts",
    "fingerprint",
    "is_constant",
    "matches",
    "near",
    "partly_alike",
    "ways",
]

CLOSE = 1e-2
"""Largest relative difference, by the largest value, of initial parameters that count as close:
bfloat16 rounds by 4e-3, and two independent draws differ by about 1."""
GLANCE = 128
"""Elements that are looked at before all."""
TAIL = 6.0
"""How much larger the largest value may be than that of a few elements."""
SAMPLE = 4096
"""Elements that a correlation is taken over."""
CORRELATED = 0.8
"""Correlation from which on two arrays are one with faults; that of two independent draws of n
numbers is about 1 / sqrt(n)."""
LEAST = 32
"""Elements that a correlation needs."""
GATES = (2, 3, 4)
"""Numbers of blocks whose order may differ: the gates of a cell, halves of a gated unit."""

Candidates = list[Layout]
"""What may be the counterpart of a tensor."""


class Sums(NamedTuple):
    """What no layout changes."""

    norm: float
    largest: float


def is_constant(array: Values) -> bool:
    """Whether all elements are one number, as those of a fresh bias or scale."""
    return bool(array.size == 0 or (array == array.flat[0]).all())


def distance(a: Values, b: Values) -> float:
    """Largest difference relative to the largest value, in the lower precision of the two; 1 where
    one is not finite or where `a` is 0 throughout.
    """
    lower = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    wide_a = a.astype(lower).astype(np.float64)
    wide_b = b.astype(lower).astype(np.float64)
    if np.array_equal(wide_a, wide_b):
        return 0.0
    largest = np.abs(wide_a).max(initial=0.0)
    gap = np.abs(wide_a - wide_b).max(initial=0.0)
    return float(gap / largest) if largest and np.isfinite(gap) else 1.0


def direction(change: Values) -> Values:
    """An array over its largest value."""
    return np.asarray(change / (np.abs(change).max(initial=0.0) or 1.0))


def fingerprint(array: Values) -> Sums:
    """2-norm and largest value of an array."""
    wide = np.abs(array.astype(np.float64))
    return Sums(float(np.sqrt(np.square(wide).sum())), float(wide.max(initial=0.0)))


def near(a: Sums, b: Sums) -> bool:
    """Whether two arrays may hold the same numbers."""
    return all(abs(x - y) <= 2 * CLOSE * abs(x) for x, y in zip(a, b))


def closest(array: Values, others: Arrays, fixed: int = 0) -> Candidates:
    """The arrays that hold the same numbers in some layout; where none does, those that hold close
    ones. The first `fixed` axes stay where they are.
    """
    exact: Candidates = []
    close: Candidates = []
    for name, other in others.items():
        for layout in distinct_layouts(array, name, other, fixed):
            turned = layout.turn(other)
            if not _may_be_close(array, turned):
                continue
            gap = distance(array, turned)
            if gap == 0:
                exact.append(layout)
            elif gap <= CLOSE:
                close.append(layout)
    return exact or close


def _may_be_close(a: Values, b: Values) -> bool:
    """Whether a few elements of two large arrays are as close as all of them must be."""
    if a.size <= 2 * GLANCE or a.shape != b.shape:
        return True
    places = _sample(a.shape, GLANCE)
    some = a[places].astype(np.float64)
    gap = np.abs(some - b[places]).max()
    return not gap > TAIL * CLOSE * np.abs(some).max()


@lru_cache(maxsize=256)
def _sample(shape: tuple[int, ...], count: int) -> tuple[NDArray[np.int64], ...]:
    """Places that are spread over all axes of a shape."""
    size = int(np.prod(shape))
    random = np.random.Generator(np.random.PCG64(0))
    flat = random.integers(0, size, min(count, size))
    return tuple(np.asarray(index) for index in np.unravel_index(flat, shape))


def distinct_layouts(array: Values, name: str, other: Values, fixed: int = 0) -> Iterator[Layout]:
    """The layouts that lead from `other` to the array's shape. An axis of length 1 may stand
    anywhere: one layout stands for all of these.
    """
    strides = set()
    other = np.asarray(other, order="C")  # of a view, strides would not tell layouts apart
    for layout in layouts(array.shape, name, other.shape):
        if layout.axes[:fixed] not in ((), tuple(range(fixed))):
            continue
        turned = layout.turn(other)
        strides_of_long_axes = tuple(
            stride for stride, size in zip(turned.strides, turned.shape) if size > 1
        )
        if strides_of_long_axes not in strides:
            strides.add(strides_of_long_axes)
            yield layout


def partly_alike(array: Values, others: Arrays) -> Candidates:
    """The arrays that hold mostly the same numbers, or the same but for a factor."""
    alike_ones: Candidates = []
    if array.size < LEAST or is_constant(array):
        return alike_ones
    places = _sample(array.shape, SAMPLE)
    mine = array[places].astype(np.float64)
    for name, other in others.items():
        if other.size != array.size or is_constant(other):
            continue
        for layout in distinct_layouts(array, name, other):
            if _correlation(mine, layout.turn(other)[places].astype(np.float64)) >= CORRELATED:
                alike_ones.append(layout)
    return alike_ones


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    centred_a = a - a.mean()
    centred_b = b - b.mean()
    size = np.sqrt(np.square(centred_a).sum() * np.square(centred_b).sum())
    return float((centred_a * centred_b).sum() / size) if size else 0.0


# ---- blocks in another order, and mirrored axes


def alike(a: Values, b: Values) -> bool:
    """Whether two arrays of one shape hold the same numbers, or close ones."""
    return a.shape == b.shape and _may_be_close(a, b) and distance(a, b) <= CLOSE


def matches(array: Values, name: str, other: Values) -> Candidates:
    """The ways in which B's array becomes A's by its values: a layout alone, or else blocks in
    another order, or else mirrored axes.
    """
    if other.size != array.size or not near(fingerprint(array), fingerprint(other)):
        return []
    return ways(array, name, other)


def ways(array: Values, name: str, other: Values) -> Candidates:
    """As `matches`, of arrays of one size and near sums."""
    plain = closest(array, {name: other})
    if plain or is_constant(array):
        return plain
    return [*_gated(array, name, other)] or [*_mirrored(array, name, other)]


def _gated(array: Values, name: str, other: Values) -> Iterator[Layout]:
    for layout in distinct_layouts(array, name, other):
        if layout.reshape:
            continue
        turned = layout.turn(other)
        for axis, size in enumerate(array.shape):
            own_axis = layout.axes[axis] if layout.axes else axis
            for count in GATES:
                order = () if size % count else _order(array, turned, axis, count)
                if order:
                    yield Layout(name, layout.axes, gates=order, axis=own_axis)
                    return


def _order(array: Values, other: Values, axis: int, count: int) -> tuple[int, ...]:
    """The order of equal blocks along an axis; () where they are not the same blocks."""
    mine = np.split(array, count, axis)
    its = np.split(other, count, axis)
    order: list[int] = []
    for block in mine:
        places = [i for i in range(count) if i not in order and alike(block, its[i])]
        if not places:
            return ()
        order.append(places[0])
    return tuple(order)


def _mirrored(array: Values, name: str, other: Values) -> Iterator[Layout]:
    long_axes = [axis for axis, size in enumerate(array.shape) if size > 1]
    for layout in distinct_layouts(array, name, other):
        if layout.reshape or array.ndim < 3:
            continue
        turned = layout.turn(other)
        for flip in _subsets(long_axes):
            if alike(array, np.flip(turned, flip)):
                yield Layout(name, layout.axes, flip=flip)
                return


def _subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for count in range(1, len(axes) + 1):
        yield from combinations(axes, count)
