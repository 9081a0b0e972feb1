"""A summary of a tensor: three statistics and a few fixed random projections, its sketches.

A summary is read piece by piece, and takes no memory to speak of. Where two runs are too large for
their tensors to be kept, their summaries say at which tensor they part. Sums are in float64, but
for blocks of long float32 tensors and for the columns of their sketches: these are in float32,
which moves a summary by some 1e-6 of the root mean square, less than rounding moves the tensor. A
tensor that is hashed is summed in float64 alone.

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
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SKETCHES",
    "Flat",
    "Summary",
    "flat_of",
    "sketch_tail",
    "squares_of",
    "sum_of_squares",
    "summarise",
]

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
FEW = 2**10
"""Elements whose squares are summed exactly."""
SINGLE = 2**18
"""Multiplications of a product that takes one thread."""
BLOCK = 2**10
"""Elements of a long tensor that are summed in float32."""
LONG = 2**15
"""Elements from which on a piece is summed in blocks, and a vector is read in pieces."""
LEAST = 1e-15
MOST = 1e15
"""Largest values between which the squares of a block are numbers of float32."""
MANY = 4
"""Pieces of a tensor that several threads read."""
CORES = min(4, os.cpu_count() or 1)
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
        squares += sum_of_squares(wide)
    return squares


def sum_of_squares(piece: Floats) -> float:
    """The sum of the squares of some elements.

    Of a few it is exact, so that a small kernel and its transpose have the same norm to the bit.
    """
    if piece.size <= FEW:
        with np.errstate(all="ignore"):
            return _exact_sum(np.square(piece))
    return float(np.einsum("i,i->", piece, piece))


def _exact_sum(values: Floats) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # a part of the sum, or a value, is infinite
        return float(values.sum())


def summarise(
    shape: Sequence[int],
    flat: Flat,
    *,
    sketches: bool = False,
    first_row: int = 0,
    hashed: bool = False,
) -> Summary:
    """The summary of a tensor. The same values give the same bits; so they do in another dtype, but
    for sketches that are not of a tensor that is hashed.

    A value that is not finite makes the statistics and sketches not finite.

    Args:
        shape: of the tensor, which has at least one element.
        flat: its elements.
        sketches: whether to sketch it.
        first_row: the place of its first row in the tensor that it is a part of.
        hashed: whether to hash it, and to sketch it in float64.
    """
    shape = tuple(shape)
    if len(shape) == 1 and shape[0] <= LONG and not hashed:
        return _summary_of_short(shape, flat(0, shape[0]), sketches, first_row)
    reader = _Reader(shape, flat, sketches=sketches, first_row=first_row, hashed=hashed)
    pieces = list(_pieces(reader.rows, reader.columns))
    if hashed or len(pieces) < MANY or CORES == 1:
        table = reader.sums(pieces)
    else:
        share = -(-len(pieces) // CORES)
        parts = [pieces[begin : begin + share] for begin in range(0, len(pieces), share)]
        table = np.concatenate(list(_workers(os.getpid()).map(reader.sums, parts)))
    with np.errstate(all="ignore"):
        sums = table.sum(axis=0)
        largest = float(table[:, 2].max())
    digest = b"" if reader.digest is None else reader.digest.digest()
    projections = sums[3:] if sketches else None
    return Summary(shape, float(sums[0]), float(sums[1]), largest, projections, digest)


def _summary_of_short(
    shape: tuple[int, ...], elements: NDArray[Any], sketches: bool, first_row: int
) -> Summary:
    """The summary of a vector of few elements, of which a model has hundreds."""
    wide = _widened(elements)
    with np.errstate(all="ignore"):
        projections = None
        if sketches:
            signs = _signs(first_row, first_row + len(wide))
            projections = np.asarray(np.einsum("n,nk->k", wide, signs))
        largest = float(np.maximum(wide.max(), -wide.min()))
        squares = float(np.einsum("n,n->", wide, wide))
        return Summary(shape, float(wide.sum()), squares, largest, projections)


class _Reader:
    """A tensor as a matrix of `columns`, its last axes, that is read piece by piece.

    Its arguments are those of `summarise`.
    """

    def __init__(
        self, shape: tuple[int, ...], flat: Flat, *, sketches: bool, first_row: int, hashed: bool
    ) -> None:
        self.shape = shape
        self.flat = flat
        self.sketches = sketches
        self.first_row = first_row
        self.digest = hashlib.sha256() if hashed else None
        self.cut = _first_of_tail(shape)
        self.columns = math.prod(shape[self.cut :])
        self.rows = math.prod(shape[: self.cut])
        self._tails: dict[np.dtype[Any], NDArray[Any]] = {}

    def sums(self, pieces: Sequence["_Piece"]) -> Floats:
        """Of each piece its sum, sum of squares, largest absolute value, and projections."""
        table = np.zeros((len(pieces), 3 + SKETCHES * self.sketches))
        with np.errstate(all="ignore"):
            for numbers, piece in zip(table, pieces):
                begin = piece.row * self.columns + piece.column
                elements = self.flat(begin, begin + (piece.end - piece.row) * piece.width)
                is_narrow = elements.dtype == np.float32 and self.digest is None
                if is_narrow and elements.size >= LONG:
                    numbers[:3] = _sums_of_blocks(elements)
                if not LEAST < numbers[2] < MOST:  # its squares may not be numbers of float32
                    numbers[:3] = self._exact_sums(elements)
                if self.sketches:
                    numbers[3:] = self._projections(piece, elements, is_narrow=is_narrow)
        return table

    def _exact_sums(self, elements: NDArray[Any]) -> tuple[float, float, float]:
        """Sum, sum of squares and largest absolute value in float64; hashes the elements."""
        wide = _widened(elements)
        if self.digest is not None:
            wide += 0.0  # -0.0 becomes 0.0
            self.digest.update(wide.data)
        largest = float(np.maximum(wide.max(), -wide.min()))
        return float(wide.sum()), float(np.einsum("i,i->", wide, wide)), largest

    def _projections(self, piece: "_Piece", elements: NDArray[Any], *, is_narrow: bool) -> Floats:
        matrix = elements if is_narrow else _widened(elements)
        products = _product(matrix.reshape(-1, piece.width), self._tail(piece, matrix.dtype))
        lead = _lead_signs(self.shape[: self.cut], piece.row, piece.end, self.first_row)
        return np.asarray(np.einsum("rk,rk->k", products.astype(np.float64), lead))

    def _tail(self, piece: "_Piece", dtype: np.dtype[Any]) -> NDArray[Any]:
        """The signs of a piece's columns."""
        if piece.width == self.columns and dtype in self._tails:
            return self._tails[dtype]
        signs = _tail_signs(self.shape, self.cut, piece.column, piece.width, self.first_row)
        signs = signs.astype(dtype, copy=False)
        if piece.width == self.columns:
            self._tails[dtype] = signs
        return signs


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


class _Piece(NamedTuple):
    """A part of a matrix whose elements follow one another.

    Attributes:
        row: its first row.
        end: the row after its last.
        column: its first column.
        width: its number of columns.
    """

    row: int
    end: int
    column: int
    width: int


def _pieces(rows: int, columns: int) -> Iterator[_Piece]:
    """The pieces of a matrix in their order."""
    if columns <= DIGIT:
        step = max(ROWS, PIECE // columns)
        for row in range(0, rows, step):
            yield _Piece(row, min(row + step, rows), 0, columns)
        return
    for row in range(rows):
        for column in range(0, columns, DIGIT):
            yield _Piece(row, row + 1, column, min(DIGIT, columns - column))


def _sums_of_blocks(elements: NDArray[np.float32]) -> tuple[float, float, float]:
    """Sum, sum of squares and largest absolute value of many elements: blocks of them are summed in
    float32, which errs by some 1e-7 of a block, and the blocks in float64.
    """
    largest = float(np.maximum(elements.max(), -elements.min()))
    cut = len(elements) // BLOCK * BLOCK
    blocks = elements[:cut].reshape(-1, BLOCK)
    rest = elements[cut:].astype(np.float64)
    total = blocks.sum(axis=1).sum(dtype=np.float64) + rest.sum()
    squares = np.einsum("bi,bi->b", blocks, blocks).sum(dtype=np.float64)
    squares += np.einsum("i,i->", rest, rest)
    return float(total), float(squares), largest


def _product(matrix: NDArray[Any], signs: NDArray[Any]) -> NDArray[Any]:
    """The matrix (rows, columns) times signs (columns, SKETCHES), in parts so small that a library
    for products takes one thread for each: several that wait for one another are slow where other
    programs run.
    """
    rows, columns = matrix.shape
    products = np.zeros((rows, SKETCHES), matrix.dtype)
    step = SINGLE // (columns * SKETCHES)
    if step and rows > 1:
        for row in range(0, rows, step):
            np.matmul(matrix[row : row + step], signs, out=products[row : row + step])
        return products
    width = BLOCK if rows == 1 else max(1, SINGLE // (rows * SKETCHES))
    for column in range(0, columns, width):
        products += matrix[:, column : column + width] @ signs[column : column + width]
    return products


@lru_cache(maxsize=1)
def _workers(process: int) -> ThreadPoolExecutor:
    """The threads of a process that summarise large tensors; a fork has none of its parent's."""
    return ThreadPoolExecutor(CORES, thread_name_prefix=f"lockstep-{process}")


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
    """The signs of columns, shape (width, SKETCHES)."""
    axes = shape[cut:]
    if not axes:
        return np.ones((1, SKETCHES))
    first = first_row if cut == 0 else 0
    if len(axes) == 1:
        return _signs(first + column, first + column + width)
    signs = _signs(first, first + axes[0])
    for length in axes[1:]:
        signs = (signs[:, None] * _signs(0, length)).reshape(-1, SKETCHES)
    return signs


def _lead_signs(axes: tuple[int, ...], row: int, end: int, first_row: int) -> Floats:
    """The signs of rows, shape (end - row, SKETCHES)."""
    if not axes:
        return np.ones((1, SKETCHES))
    if len(axes) == 1:
        return _signs(first_row + row, first_row + end)
    if end - row > LONG // SKETCHES:
        return _signs_of_rows(axes, row, end, first_row)
    return _kept_signs_of_rows(axes, row, end, first_row)


def _signs_of_rows(axes: tuple[int, ...], row: int, end: int, first_row: int) -> Floats:
    signs = np.ones((end - row, SKETCHES))
    indices = np.unravel_index(np.arange(row, end), axes)
    for axis, (index, length) in enumerate(zip(indices, axes)):
        first = first_row if axis == 0 else 0
        signs = signs * _signs(first, first + length)[index]
    return signs


_kept_signs_of_rows = lru_cache(maxsize=64)(_signs_of_rows)


def _signs(begin: int, end: int) -> Floats:
    """The signs of indices of an axis, shape (end - begin, SKETCHES)."""
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
    signs = 1.0 - 2.0 * bits.astype(np.float64)
    signs.setflags(write=False)
    return signs
