"""Windows that slide over an input: where they begin, how far they reach, and what they take in
beyond its ends.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lockstep.oracle.arithmetic import Array

__all__ = ["Pads", "in_words", "padded", "pads_of", "windows_of"]

Pads = tuple[tuple[int, int], ...]
"""Places before and after each axis; fewer than 0 where the windows begin further in."""
MOST_PADS = 60
STRIDES = (1, 2, 3, 4)


def pads_of(
    lengths: Sequence[int], outputs: Sequence[int], reaches: Sequence[int], stride: int
) -> Iterator[Pads]:
    """The pads with which windows give outputs of these lengths, the evenest first.

    Args:
        lengths: of the input along each axis.
        outputs: of the output.
        reaches: how far one window reaches.
        stride: from one window to the next.
    """
    of_axes: list[list[tuple[int, int]]] = []
    for length, output, reach in zip(lengths, outputs, reaches):
        needed = (output - 1) * stride + reach - length
        pairs = []
        for before in range(1 - stride, reach):
            least = needed - before
            afters = range(least, least + stride)  # what no window reaches is not seen
            pairs += [(before, after) for after in afters if after < reach]
        pairs.sort(key=_oddness)
        of_axes.append(pairs)
    combinations = list(product(*(pairs[:40] for pairs in of_axes)))
    combinations.sort(key=lambda pads: (len(set(pads)) > 1, sum(map(_oddness, pads))))
    yield from combinations[:MOST_PADS]


def _oddness(pair: tuple[int, int]) -> float:
    """0 for the same on both sides; pads that are negative come last."""
    before, after = pair
    return abs(before - after) + 10.0 * (before < 0) + 0.1 * (after < 0)


def padded(x: Array, pads: Pads, mode: str = "zeros", value: float = 0.0) -> Array | None:
    """An input (B, C, ...) with so much before and after its last axes; None where the mode does
    not allow it.
    """
    inside = tuple(
        slice(max(-before, 0), length - max(-after, 0))
        for (before, after), length in zip(pads, x.shape[2:])
    )
    x = x[(slice(None), slice(None), *inside)]
    widths = [(0, 0), (0, 0), *((max(before, 0), max(after, 0)) for before, after in pads)]
    if mode == "zeros":
        return np.pad(x, widths, constant_values=value)
    if any(max(pair) >= length for pair, length in zip(widths[2:], x.shape[2:])):
        return None
    return np.pad(x, widths, mode=mode)  # type: ignore[call-overload,no-any-return]


def windows_of(x: Array, sizes: Sequence[int], stride: int, dilation: int = 1) -> Array | None:
    """The windows (B, C, ..., *sizes) of a padded input (B, C, ...)."""
    reaches = [dilation * (size - 1) + 1 for size in sizes]
    if any(reach > length for reach, length in zip(reaches, x.shape[2:])):
        return None
    axes = tuple(range(2, x.ndim))
    windows = sliding_window_view(x, reaches, axis=axes)
    steps = (slice(None, None, stride),) * len(sizes)
    insides = (slice(None, None, dilation),) * len(sizes)
    cut: Array = windows[(slice(None), slice(None), *steps, *insides)]
    return cut


def in_words(pads: Pads) -> str:
    """What is added, in words: "1 before and 1 after", or of each axis."""
    if len(set(pads)) == 1:
        return f"{pads[0][0]} before and {pads[0][1]} after"
    each = [f"{before} before and {after} after" for before, after in pads]
    return " and ".join(f"{pair} along axis {axis}" for axis, pair in enumerate(each, 1))
