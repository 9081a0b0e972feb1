"""What is recorded of the update that a loop is in."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.own_loops.arrays import Tensor, to_array
from lockstep.own_loops.operations import Operations
from lockstep.own_loops.tensor_pieces import (
    dtype_of,
    flat_tensor,
    has_numpy_dtype,
    size_in_bytes,
)
from lockstep.records.tensor_statistics import WATCHED
from lockstep.records.tensor_summary import Summary, squares_of, summarise

__all__ = ["Arrays", "Part", "PresentUpdate"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Part:
    """A tensor that is recorded later, or is joined with others before.

    Attributes:
        array: a copy; None where it is not copied.
        shape: its shape.
        dtype: as the loop had it.
        bytes: its size in a trace.
        is_widened: whether NumPy lacks its dtype.
        summary: None where it is not summarised.
        first_row: the row that the summary takes for its first.
    """

    array: NDArray[Any] | None
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    is_widened: bool
    summary: Summary | None = None
    first_row: int = 0


class PresentUpdate:
    """Scalars of the present update, and copies and summaries of its tensors.

    `close` clears them for the next.

    Args:
        is_due: whether the tensors of the present update are recorded, as copies or as summaries.
        is_copied: whether they are recorded as copies.

    Attributes:
        number: the updates that were closed.
        arrays: "family/name" -> copy of a tensor.
        bytes: the size of the tensors that were given, copied or not.
        squares: name -> sum of the squares of a gradient, in float64.
        summaries: "family/name" -> summary, where they are recorded.
        scalars: name -> number.
        layers: the outputs of layers in call order, of all updates.
        operations: what the update computed, where that is listed.
        dtypes: (family, dtype of floats as the loop had them) -> how many arrays.
        array_dtypes: "family/name" -> dtype, of arrays whose own dtype NumPy cannot hold.
        room: the bytes that copies may take. Where the update's tensors outgrow it, none is kept.
        with_statistics: whether tensors are summarised.
        with_sketches: whether these summaries have sketches.
    """

    def __init__(self, is_due: Callable[[], bool], is_copied: Callable[[], bool]) -> None:
        self.is_due = is_due
        self.is_copied = is_copied
        self.number = 0
        self.arrays: Arrays = {}
        self.bytes = 0
        self.squares: dict[str, float] = {}
        self.summaries: dict[str, Summary] = {}
        self.scalars: dict[str, np.generic] = {}
        self.layers: dict[str, None] = {}
        self.operations: Operations | None = None
        self.dtypes: Counter[tuple[str, str]] = Counter()
        self.array_dtypes: dict[str, str] = {}
        self.room = 0
        self.with_statistics = False
        self.with_sketches = False
        self._shapes: dict[str, tuple[int, ...]] = {}

    @property
    def names(self) -> Mapping[str, tuple[int, ...]]:
        """The tensors of the update that were given, "family/name", and their shapes."""
        return self._shapes

    def note_dtype(self, family: str, key: str, value: Tensor) -> None:
        """Count the dtype of a tensor, which a trace calls `key`."""
        dtype = dtype_of(value)
        if "float" not in dtype:
            return
        self.dtypes[family, dtype] += 1
        if not has_numpy_dtype(value):
            self.array_dtypes[key] = dtype

    def add(self, family: str, values: Mapping[str, Tensor]) -> None:
        """Record tensors; those of the same names are replaced.

        Raises:
            InputError: a tensor that a trace cannot hold.
        """
        for name, value in values.items():
            key = f"{family}/{name}"
            is_new = key not in self._shapes
            summary = self._record(family, name, key, value, count=is_new)
            if family == "gradients":
                self.squares[name] = _squares(value, summary)
            if self._has_room():
                same = self.arrays.get(f"gradients/{name}") if family == "clip" else None
                self.arrays[key] = _copy(value, same)

    def drop_gradients(self) -> None:
        """Forget the gradients of the update."""
        for key in [key for key in self._shapes if key.startswith("gradients/")]:
            del self._shapes[key]
            self.arrays.pop(key, None)
            self.summaries.pop(key, None)
        self.squares = {}

    def append(self, family: str, values: Mapping[str, Tensor]) -> None:
        """Join more rows to those of the update.

        Rows of another shape, as of a layer that is used twice, get a name of their own.

        Raises:
            InputError: a tensor that a trace cannot hold.
        """
        for name, value in values.items():
            key = self._key_of_rows(f"{family}/{name}", tuple(value.shape))
            rows = self.arrays.get(key)
            self._record(family, name, key, value, joined=key in self._shapes)
            if self._has_room():
                array, _ = to_array(value)
                self.arrays[key] = array if rows is None else np.concatenate([rows, array])
            if family == "forward":
                self.layers[key.removeprefix("forward/")] = None

    def put(self, family: str, name: str, part: Part) -> None:
        """Record a tensor of which there is a copy, or a summary, already."""
        key = f"{family}/{name}"
        self._shapes[key] = part.shape
        self.bytes += part.bytes
        if "float" in part.dtype:
            self.dtypes[family, part.dtype] += 1
        if part.is_widened:
            self.array_dtypes[key] = part.dtype
        if part.summary is not None:
            self.summaries[key] = part.summary
        if part.array is None and self.is_copied():  # there was no room for it
            self.bytes = max(self.bytes, self.room + 1)
        if self._has_room() and part.array is not None:
            self.arrays[key] = part.array

    def scale(self, family: str, names: Iterable[str], factor: float) -> None:
        """Multiply recorded tensors by a factor, in their own dtype."""
        if factor == 1:
            return
        for name in names:
            key = f"{family}/{name}"
            array = self.arrays.get(key)
            if array is not None:
                self.arrays[key] = array * array.dtype.type(factor)
            if key in self.summaries:
                self.summaries[key] = self.summaries[key].times(factor)
            if family == "gradients" and name in self.squares:
                self.squares[name] *= factor**2

    def drop(self, family: str, names: Iterable[str]) -> None:
        """Forget recorded tensors."""
        for name in names:
            key = f"{family}/{name}"
            self.arrays.pop(key, None)
            self.summaries.pop(key, None)
            self._shapes.pop(key, None)
            if family == "gradients":
                self.squares.pop(name, None)

    def summarise(self, family: str, values: Mapping[str, Tensor]) -> None:
        """Summarise tensors that are recorded elsewhere, if summaries are recorded."""
        for name, value in values.items():
            self._record(family, name, f"{family}/{name}", value, count=False)

    def set_scalar(self, name: str, value: Tensor) -> None:
        """Record a number: an array of one element.

        Raises:
            InputError: an array of several elements.
        """
        array, _ = to_array(value)
        if array.size != 1:
            raise InputError(f"{name}: shape {array.shape}, expected a number")
        self.scalars[name] = cast(np.generic, array.reshape(())[()])
        if not has_numpy_dtype(value):
            self.array_dtypes[f"updates/{name}"] = dtype_of(value)

    def set_rates(self, rates: Sequence[Tensor], first: int = 0) -> None:
        """Record the learning rate of each group: "lr", "lr1", "lr2", ... from group `first` on."""
        for group, rate in enumerate(rates, start=first):
            self.set_scalar(f"lr{group or ''}", rate)

    def close(self) -> None:
        """Begin the next update."""
        self.arrays = {}
        self.bytes = 0
        self.squares = {}
        self.summaries = {}
        self.scalars = {}
        self.operations = None
        self._shapes = {}
        self.number += 1

    def part(self, family: str, value: Tensor, *, is_copied: bool, first_row: int = 0) -> Part:
        """A tensor to be recorded by `put`, as `add` would record it.

        Args:
            family: "forward", "batch", ...
            value: the tensor.
            is_copied: whether to copy it.
            first_row: the rows before it, where it is one of several that are joined.

        Raises:
            InputError: a tensor that a trace cannot hold.
        """
        shape = tuple(value.shape)
        summary = None
        if self.with_statistics and family in WATCHED and math.prod(shape):
            flat = flat_tensor(value)
            summary = summarise(shape, flat, sketches=self.with_sketches, first_row=first_row)
        array = to_array(value)[0] if is_copied else None
        return Part(
            array,
            shape,
            dtype_of(value),
            size_in_bytes(value),
            not has_numpy_dtype(value) and "float" in dtype_of(value),
            summary,
            first_row,
        )

    def _record(
        self,
        family: str,
        name: str,
        key: str,
        value: Tensor,
        *,
        count: bool = True,
        joined: bool = False,
    ) -> Summary | None:
        """Note a tensor's size and dtype, and summarise it if its family is.

        Args:
            family: of the tensor.
            name: as the loop has it.
            key: "family/name" as the trace has it.
            value: the tensor.
            count: whether its size adds to that of the update.
            joined: whether it is more rows of the tensor of this name.
        """
        shape = tuple(getattr(value, "shape", ()))
        rows = self._shapes[key][0] if joined else 0
        try:
            flat = flat_tensor(value)
        except InputError as error:
            raise InputError(f"update {self.number}: {family} {name}: {error}") from None
        summary = None
        if self.with_statistics and family in WATCHED and math.prod(shape):
            summary = summarise(shape, flat, sketches=self.with_sketches, first_row=rows)
            known = self.summaries.get(key) if joined else None
            self.summaries[key] = summary if known is None else known.followed_by(summary)
        self._shapes[key] = (rows + shape[0], *shape[1:]) if joined else shape
        self.bytes += size_in_bytes(value) if count else 0
        self.note_dtype(family, key, value)
        return summary

    def _key_of_rows(self, name: str, shape: tuple[int, ...]) -> str:
        """The name of rows: that of earlier rows, or a new one."""
        known = self._shapes.get(name)
        if known is None or (shape and known[1:] == shape[1:] and len(known) == len(shape)):
            return name
        uses = [key for key in self._shapes if key == name or key.startswith(f"{name}#")]
        return f"{name}#{len(uses) + 1}"

    def _has_room(self) -> bool:
        """Whether a tensor is copied. Where there is no room, earlier copies are dropped."""
        has_room = self.is_copied() and self.bytes <= self.room
        if not has_room:
            self.arrays = {}
        return has_room


def _squares(value: Tensor, summary: Summary | None) -> float:
    if summary is not None:
        return summary.squares
    with np.errstate(all="ignore"):
        return squares_of(flat_tensor(value), math.prod(value.shape))


def _copy(value: Tensor, same: NDArray[Any] | None) -> NDArray[Any]:
    """A copy of a tensor; or the array `same`, if it holds the same bits."""
    if same is not None:
        bits = f"u{same.itemsize}"
        elements = flat_tensor(value)(0, same.size)
        is_alike = elements.dtype == same.dtype and tuple(value.shape) == same.shape
        if is_alike and np.array_equal(elements.view(bits), same.reshape(-1).view(bits)):
            return same
    return to_array(value)[0]
