"""Values of a batch at other places within their rows: flipped, shifted, with channels exchanged,
or padded on the other side.
"""

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.batches.arrays import batch_of, noun, unit_of_batch
from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair

__all__ = ["moved", "padded_otherwise"]

CHANNELS = (3, 4)
"""Sizes of an axis of colours."""
MOST_AXES = 4
LEAST_OVERLAP = 0.5
"""The share of an axis that must be the same after a shift."""
LEAST_VALUES = 4
"""Different values that an array must have: one of few values is unchanged by many moves."""
ROUNDINGS = 8.0
PAGE = "other-pixels-are-fed"
PAD_PAGE = "padding-on-the-left-or-right"

Values = NDArray[Any]


def moved(pair: LoopPair) -> Iterator[Explanation]:
    """That a side's values are the other's at other places of their rows."""
    mine, other = batch_of(pair.mine, pair.update), batch_of(pair.other, pair.update)
    differing = pair.differing("batch")
    for name in differing:
        x, z = mine[name], other[name]
        if x.shape != z.shape or x.ndim < 2 or len(np.unique(z)) < LEAST_VALUES:
            continue
        near = ROUNDINGS * unit_of_batch(pair, name)
        for text, values in _moves(x, z, near):
            if _is_same(values, x, near):
                sentence = f"{pair.mine.name}'s {noun(name, x)} are {pair.other.name}'s {text}"
                predicted = {name: np.asarray(values, np.float64)}
                is_part = len(differing) > 1
                yield Explanation(
                    "features-moved", sentence, predicted, "other places", PAGE, is_part=is_part
                )
                break


def _is_same(one: Values, other: Values, near: float) -> bool:
    if one.shape != other.shape:
        return False
    size = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=0, atol=near * size, equal_nan=True))


def _moves(x: Values, z: Values, near: float) -> Iterator[tuple[str, Values]]:
    """The known moves in words, and what they make of z."""
    for axis in range(1, z.ndim):
        if z.shape[axis] in CHANNELS:
            for order in list(permutations(range(z.shape[axis])))[1:]:
                is_reversed = order == tuple(range(z.shape[axis]))[::-1]
                words = (
                    "with its channels in reverse (RGB and BGR)"
                    if is_reversed
                    else (f"with its channels in the order {order}")
                )
                yield words, np.take(z, order, axis=axis)
    for axis in range(1, z.ndim):
        yield f"reversed along axis {axis}", np.flip(z, axis)
    if z.ndim > 2:
        yield "reversed along the last two axes", np.flip(z, (-2, -1))
    if 2 < z.ndim <= MOST_AXES + 1:
        for order in list(permutations(range(1, z.ndim)))[1:]:
            turned = z.transpose(0, *order)
            if turned.shape == x.shape:
                yield f"with its axes in the order {(0, *order)}", turned
            else:
                yield f"laid out in the order {(0, *order)}", turned.reshape(x.shape)
    for axis in range(1, z.ndim):
        yield from _flipped_in_part(x, z, axis, near)
    for axis in range(1, z.ndim):
        yield from _shifted(x, z, axis, near)


def _flipped_in_part(x: Values, z: Values, axis: int, near: float) -> Iterator[tuple[str, Values]]:
    """Some rows reversed along an axis, as by a random flip."""
    flipped = np.flip(z, axis)
    is_flipped = np.array([not _is_same(row, here, near) for row, here in zip(z, x)])
    if 0 < is_flipped.sum() < len(z):
        shape = (-1, *(1 for _ in range(z.ndim - 1)))
        text = f"with {int(is_flipped.sum())} of {len(z)} rows reversed along axis {axis}"
        yield text, np.where(is_flipped.reshape(shape), flipped, z)


def _shifted(x: Values, z: Values, axis: int, near: float) -> Iterator[tuple[str, Values]]:
    """Moved along an axis by some places, with others at the end."""
    length = z.shape[axis]
    here, there = np.moveaxis(x, axis, 0), np.moveaxis(z, axis, 0)
    for shift in range(1, int(length * (1 - LEAST_OVERLAP)) + 1):
        for sign, word in ((1, "later"), (-1, "earlier")):
            tail, head = slice(shift, None), slice(None, length - shift)
            inner, source = (tail, head) if sign > 0 else (head, tail)
            if not _is_same(here[inner], there[source], near):
                continue
            values = here.copy()
            values[inner] = there[source]
            rest = here[:shift] if sign > 0 else here[length - shift :]
            fill = np.unique(rest)
            begins = "begin" if sign > 0 else "end"
            what = f"; they {begins} with {fill[0]:g}" if len(fill) == 1 else ""
            places = f"{shift} {'place' if shift == 1 else 'places'}"
            yield f"{places} {word} along axis {axis}{what}", np.moveaxis(values, 0, axis)


def padded_otherwise(pair: LoopPair) -> Iterator[Explanation]:
    """That rows of tokens are padded on the other side."""
    mine, other = batch_of(pair.mine, pair.update), batch_of(pair.other, pair.update)
    differing = [name for name in pair.differing("batch") if mine[name].dtype.kind == "i"]
    parts = {}
    texts = []
    for name in differing:
        x, z = mine[name], other[name]
        pad = _padding(x, z) if x.ndim == 2 else None
        if pad is None:
            continue
        value, side = pad
        parts[name] = _padded(z, value, side)
        opposite = "right" if side == "left" else "left"
        texts.append(
            f"{pair.mine.name} pads rows of {name} on the {side} (with {value}), "
            f"{pair.other.name} on the {opposite}"
        )
    if parts:
        predicted = {name: array.astype(np.float64) for name, array in parts.items()}
        is_part = set(parts) != set(pair.differing("batch"))
        yield Explanation("padding-side", texts[0], predicted, "padding", PAD_PAGE, is_part=is_part)


def _padding(x: Values, z: Values) -> tuple[int, str] | None:
    """The value and the side of x's padding, where z has the same rows padded on the other."""
    for side, column in (("left", 0), ("right", -1)):
        for value in np.unique(x[:, column])[:8].tolist():
            if np.array_equal(_padded(z, value, side), x) and not np.array_equal(x, z):
                return int(value), side
    return None


def _padded(z: Values, value: int, side: str) -> Values:
    """The rows of z with the padding at their other end moved to this side."""
    rows = []
    for row in z:
        # padding is what stands at the end, not the same number within
        fill = row == value
        end = fill[::-1] if side == "left" else fill
        count = int(end.argmin()) if not end.all() else len(row)
        keep = row[: len(row) - count] if side == "left" else row[count:]
        pad = np.full(count, value, row.dtype)
        rows.append(np.concatenate([pad, keep] if side == "left" else [keep, pad]))
    return np.stack(rows)
