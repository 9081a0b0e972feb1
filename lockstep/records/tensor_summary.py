"""A summary of a tensor: three statistics and a few fixed random projections, its sketches.

A summary is read piece by piece, in float64, and takes no memory to speak of. Where two runs are
too large for their tensors to be kept, their summaries say at which tensor they part.

**Sketches.** With a fixed sign r_j(i) = +1 or -1 for each index i and each j below `SKETCHES`,
sketch j of a tensor w with n elements and d axes is

    s_j = 1 / sqrt(n) * sum over all elements of w[i1, ..., id] r_j(i1) ... r_j(id)

A sign depends on the index alone, and on neither the axis nor its length. Hence a sketch

- survives any order of the axes: a kernel and its transpose have the same sketches;
- is the sum of those of parts along the first axis, so that micro-batches can be added up;
- does not survive a reshape, as of fused heads. Only the statistics can then be compared.

Over random signs the mean of s_j^2 is the mean square of the tensor, if no two axes are equally
long; of a square tensor the part that is symmetric counts, since the transpose must look the same.
Two tensors whose difference e has the root mean square |e| differ in every sketch by about |e|; all
`SKETCHES` of them stay below |e| / 10 with a probability of (0.08)^8 = 2e-9 (one axis) to
(0.22)^8 = 5e-6 (two axes, e of rank 1).
"""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SKETCHES", "Flat", "Summary", "flat_of", "sketch_tail", "squares_of", "summarise"]

SKETCHES = 8
"""Sketches of a tensor."""

Flat = Callable[[int, int], NDArray[Any]]
"""The elements of a tensor from one place to another, shape (end - begin,), in C order."""
Floats = NDArray[np.float64]

PIECE = 2**17
"""Elements that are read at once: 1 MiB in float64, which a core keeps in its own cache."""
ROWS = 8
"""Rows that are read at once where they are longer than `PIECE` / ROWS: the signs of a long row are
more than the row."""
DIGIT = 2**17
"""An index is two digits of this base, and its sign the product of those of its digits."""
NARROW = 64
"""Last axes are taken together until they have as many elements."""
SEED = 20_240_229
TAIL = 23.0
"""-log of the probability that a sketch is beyond `sketch_tail` times its size: 1e-10."""

_local = threading.local()


@dataclass(frozen=True)
class Summary:
    """What is left of a tensor.

    Attributes:
        shape: of the tensor, which has at least one element.
        total: sum of its elements, in float64.
        squares: sum of their squares.
        largest: largest absolute value.
        projections: (SKETCHES,) sketches before they are divided by sqrt(n); none where none were
            asked for.
        digest: SHA-256 of the elements in float64 and C order, with 0.0 for -0.0; b"" where it was
            not asked for.
    """

    shape: tuple[int, ...]
    total: float
    squares: float
    largest: float
    projections: Floats | None = None
    digest: bytes = b""

    @property
    def statistics(self) -> tuple[float, float, float]:
        """Mean, root mean square and largest absolute value."""
        size = math.prod(self.shape)
        with np.errstate(all="ignore"):
            root_mean_square = np.sqrt(self.squares / size)
        return self.total / size, float(root_mean_square), self.largest

    @property
    def sketches(self) -> Floats:
        """The sketches, shape (SKETCHES,); shape (0,) where none were asked for."""
        if self.projections is None:
            return np.zeros(0)
        return self.projections / math.sqrt(math.prod(self.shape))

    def times(self, factor: float) -> "Summary":
        """The summary of the tensor times a factor."""
        return replace(
            self,
            total=self.total * factor,
            squares=self.squares * factor**2,
            largest=self.largest * abs(factor),
            projections=None if self.projections is None else self.projections * factor,
            digest=b"",
        )

    def followed_by(self, more: "Summary") -> "Summary":
        """The summary of this tensor with further rows, which were summarised as of its length."""
        projections = self.projections
        if projections is not None and more.projections is not None:
            projections = projections + more.projections
        return replace(
            self,
            shape=(self.shape[0] + more.shape[0], *self.shape[1:]),
            total=self.total + more.total,
            squares=self.squares + more.squares,
            largest=float(np.maximum(self.largest, more.largest)),
            projections=projections,
            digest=b"",
        )


def flat_of(array: NDArray[Any]) -> Flat:
    """The elements of an array in NumPy, without a copy if it lies in C order."""
    elements = array.reshape(-1)
    return lambda begin, end: elements[begin:end]


def squares_of(flat: Flat, size: int) -> float:
    """The sum of the squares of a tensor's elements, in float64."""
    squares = 0.0
    for begin in range(0, size, PIECE):
        wide = _widened(flat(begin, min(begin + PIECE, size)))
        squares += float(wide @ wide)
    return squares


def summarise(
    shape: Sequence[int],
    flat: Flat,
    *,
    sketches: bool = False,
    first_row: int = 0,
    hashed: bool = False,
) -> Summary:
    """The summary of a tensor; the same values give the same bits, whatever their dtype.

    A value that is not finite makes the statistics and sketches not finite.

    Args:
        shape: of the tensor, which has at least one element.
        flat: its elements.
        sketches: whether to sketch it.
        first_row: the place of its first row in the tensor that it is a part of.
        hashed: whether to hash it.
    """
    shape = tuple(shape)
    cut = _first_of_tail(shape)
    columns = math.prod(shape[cut:])
    tail = _tail_signs(shape, cut, 0, min(columns, DIGIT), first_row)
    digest = hashlib.sha256() if hashed else None
    total = squares = largest = 0.0
    projections = np.zeros(SKETCHES) if sketches else None
    with np.errstate(all="ignore"):
        for row, end, column, width in _pieces(math.prod(shape[:cut]), columns):
            begin = row * columns + column
            wide = _widened(flat(begin, begin + (end - row) * width))
            if digest is not None:
                wide += 0.0  # -0.0 becomes 0.0
                digest.update(wide.data)
            squares += float(wide @ wide)
            largest = float(np.maximum(largest, np.maximum(wide.max(), -wide.min())))
            if projections is None:
                total += float(wide.sum())
                continue
            if columns > DIGIT:
                tail = _tail_signs(shape, cut, column, width, first_row)
            products = wide.reshape(-1, width) @ tail
            total += float(products[:, -1].sum())
            lead = _lead_signs(shape[:cut], row, end, first_row)
            projections += np.einsum("rk,rk->k", products[:, :-1], lead[:, :-1])
    hashed_bytes = b"" if digest is None else digest.digest()
    return Summary(shape, total, squares, largest, projections, hashed_bytes)


def sketch_tail(shape: Sequence[int]) -> float:
    """How many times as large as a difference's root mean square its sketch may be by chance.

    A sketch of a difference of rank 1 is a product of d numbers, one for each axis, that are nearly
    normal with variance 1. The chance that it is beyond t is about exp(-(d / 2) t^(2 / d)); for
    1e-10 t is 6.8 with one axis, 23 with two, 60 with three and 132 with four. Signs of an axis
    that is longer than `DIGIT` are products themselves, and it counts as two.
    """
    axes = sum(1 + (length > DIGIT) for length in shape) or 1
    return float((2 * TAIL / axes) ** (axes / 2))


def _first_of_tail(shape: tuple[int, ...]) -> int:
    """The first of the last axes that are taken together as columns."""
    cut = max(len(shape) - 1, 0)
    columns = math.prod(shape[cut:])
    while cut > 0 and columns < NARROW and columns * shape[cut - 1] <= DIGIT:
        cut -= 1
        columns *= shape[cut]
    return cut


def _pieces(rows: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """Pieces of a matrix whose elements follow one another: first row, row after the last, first
    column, and number of columns.
    """
    if columns <= DIGIT:
        step = max(ROWS, PIECE // columns)
        for row in range(0, rows, step):
            yield row, min(row + step, rows), 0, columns
        return
    for row in range(rows):
        for column in range(0, columns, DIGIT):
            yield row, row + 1, column, min(DIGIT, columns - column)


def _widened(piece: NDArray[Any]) -> Floats:
    """The elements in float64, in memory that the next call of this thread uses again."""
    buffer: Floats | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < piece.size:
        buffer = _local.buffer = np.empty(max(PIECE, piece.size))
    wide = buffer[: piece.size]
    np.copyto(wide, piece, casting="unsafe")
    return wide


# ---- signs


def _tail_signs(
    shape: tuple[int, ...], cut: int, column: int, width: int, first_row: int
) -> Floats:
    """The signs of columns, shape (width, SKETCHES + 1); the last column is 1."""
    axes = shape[cut:]
    if not axes:
        return np.ones((1, SKETCHES + 1))
    first = first_row if cut == 0 else 0
    if len(axes) == 1:
        return _signs(first + column, first + column + width)
    signs = _signs(first, first + axes[0])
    for length in axes[1:]:
        signs = (signs[:, None] * _signs(0, length)).reshape(-1, SKETCHES + 1)
    return signs


def _lead_signs(axes: tuple[int, ...], row: int, end: int, first_row: int) -> Floats:
    """The signs of rows, shape (end - row, SKETCHES + 1)."""
    if not axes:
        return np.ones((1, SKETCHES + 1))
    if len(axes) == 1:
        return _signs(first_row + row, first_row + end)
    signs = np.ones((end - row, SKETCHES + 1))
    indices = np.unravel_index(np.arange(row, end), axes)
    for axis, (index, length) in enumerate(zip(indices, axes)):
        first = first_row if axis == 0 else 0
        signs = signs * _signs(first, first + length)[index]
    return signs


def _signs(begin: int, end: int) -> Floats:
    """The signs of indices of an axis, shape (end - begin, SKETCHES + 1); the last column is 1."""
    digit = begin // DIGIT
    next_digit = (digit + 1) * DIGIT
    if end > next_digit:
        return np.concatenate([_signs(begin, next_digit), _signs(next_digit, end)])
    within = slice(begin - digit * DIGIT, end - digit * DIGIT)
    low = _table(SEED, _power_of_two(within.stop))[within]
    if digit == 0:
        return low
    return np.asarray(low * _table(SEED + 1, _power_of_two(digit))[digit - 1])


def _power_of_two(length: int) -> int:
    return max(1024, 1 << (length - 1).bit_length())


@lru_cache(maxsize=16)
def _table(seed: int, length: int) -> Floats:
    """The signs of the indices below `length`; a longer table begins with the shorter one."""
    raw = np.asarray(np.random.PCG64(seed).random_raw(length))
    bits = raw[:, None] >> np.arange(SKETCHES, dtype=np.uint64) & np.uint64(1)
    signs = np.ones((length, SKETCHES + 1))
    signs[:, :-1] -= 2.0 * bits
    signs.setflags(write=False)
    return signs
