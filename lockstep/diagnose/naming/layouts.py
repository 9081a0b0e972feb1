"""How arrays of trace B become an array of trace A: a layout of one array, or a join of several."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError

__all__ = ["Arrays", "Join", "Layout", "Source", "Sum", "Values", "layouts"]

Values = NDArray[Any]
Arrays = Mapping[str, Values]
"""Name -> array."""

MOST_AXES = 5


@dataclass(frozen=True)
class Layout:
    """An array of trace B, and how it becomes one of A; () leaves a step out.

    The steps are taken in this order: `span` and `gates`, both along `axis` of B's own array, then
    `reshape`, `axes`, `flip` and `shape`.

    Attributes:
        name: B's name.
        axes: the order of the axes, as `numpy.transpose` takes it.
        reshape: the shape before the axes are ordered.
        span: begin and end of the slice that is taken.
        gates: the order of as many equal blocks: block i is B's block gates[i].
        axis: the axis of B's array along which it is sliced, and along which its blocks lie.
        flip: the axes of A's array along which it is mirrored.
        shape: the shape in the end, where axes are put together.
    """

    name: str
    axes: tuple[int, ...] = ()
    reshape: tuple[int, ...] = ()
    span: tuple[int, ...] = ()
    gates: tuple[int, ...] = ()
    axis: int = 0
    flip: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """B's name, alone."""
        return (self.name,)

    @property
    def is_plain(self) -> bool:
        """Whether the array is taken as it is, or with its axes in another order."""
        return self == Layout(self.name, self.axes)

    def turn(self, array: Values) -> Values:
        """The array as A lays it out.

        Raises:
            InputError: an array of another number of axes or elements; names it.
        """
        try:
            return self._turned(array)
        except (ValueError, IndexError):
            raise InputError(
                f"names: {self.name}: shape {array.shape} cannot be laid out by {self._steps()}"
            ) from None

    def take(self, arrays: Arrays) -> Values:
        """As `turn`, of the array of its name.

        Raises:
            KeyError: there is none.
            InputError: as `turn`.
        """
        return self.turn(arrays[self.name])

    def _turned(self, array: Values) -> Values:
        if self.span:
            begin, end = self.span
            if end > array.shape[self.axis]:
                raise ValueError
            array = np.take(array, range(begin, end), self.axis)
        if self.gates:
            blocks = np.split(array, len(self.gates), self.axis)
            array = np.concatenate([blocks[gate] for gate in self.gates], self.axis)
        if self.reshape:
            array = array.reshape(self.reshape)
        if self.axes:
            array = np.transpose(array, self.axes)
        if self.flip:
            array = np.flip(array, self.flip)
        return array.reshape(self.shape) if self.shape else array

    def _steps(self) -> str:
        along = f" along axis {self.axis}"
        steps = {
            f"slice{along}": self.span,
            f"gates{along}": self.gates,
            "reshape": self.reshape,
            "axes": self.axes,
            "flip": self.flip,
            "shape": self.shape,
        }
        return ", ".join(f"{word} {list(numbers)}" for word, numbers in steps.items() if numbers)


@dataclass(frozen=True)
class Join:
    """Arrays of trace B that make one of A, one after another along `axis` of A's array."""

    parts: tuple[Layout, ...]
    axis: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """B's names, in the order of the parts."""
        return tuple(part.name for part in self.parts)

    def take(self, arrays: Arrays) -> Values:
        """A's array, of the arrays of B by name.

        Raises:
            KeyError: one is missing.
            InputError: arrays of other shapes; names them.
        """
        pieces = [part.take(arrays) for part in self.parts]
        try:
            return np.concatenate(pieces, self.axis)
        except ValueError:
            shapes = ", ".join(str(piece.shape) for piece in pieces)
            raise InputError(
                f"names: {', '.join(self.names)}: shapes {shapes} cannot be joined along axis "
                f"{self.axis}"
            ) from None


Source = Layout | Join
"""What one array of A is made of."""


@dataclass(frozen=True)
class Sum:
    """Arrays of which only the sum can be compared, as of two biases and the one of another cell.

    Each term of a side is an array, a slice or a join of that side's own arrays. Gradients are
    those of the sum, and the same for each term.
    """

    a: tuple[Source, ...]
    b: tuple[Source, ...]


def layouts(shape_a: tuple[int, ...], name: str, shape_b: tuple[int, ...]) -> Iterator[Layout]:
    """Every way in which an array of B's shape becomes one of A's: an order of its axes, after it
    was reshaped where it has more axes, or fewer.
    """
    if not shape_a and not shape_b:
        yield Layout(name)
        return
    if len(shape_a) > MOST_AXES or len(shape_b) > MOST_AXES:
        if shape_a == shape_b:
            yield Layout(name)
        return
    is_reordered = sorted(shape_a) == sorted(shape_b)
    if not is_reordered and len(shape_a) == len(shape_b):
        return
    for axes in permutations(range(len(shape_a))):
        if not is_reordered:
            middle = tuple(shape_a[axes.index(axis)] for axis in range(len(axes)))
            yield Layout(name, _unless_in_order(axes), middle)
        elif tuple(shape_b[axis] for axis in axes) == shape_a:
            yield Layout(name, _unless_in_order(axes))


def _unless_in_order(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes, or () where they are in order already."""
    return () if axes == tuple(range(len(axes))) else axes
