"""Passes through the layers of a model in one update, and their join along the rows of a batch."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lockstep.own_loops.arrays import Tensor
from lockstep.own_loops.present_update import Part
from lockstep.records.tensor_summary import Summary

__all__ = ["FORWARD", "INPUT", "Joined", "Mark", "Pass", "Source", "version_of"]

FORWARD = "forward/"
BATCH = "batch/"
INPUT = ".input"


@dataclass(frozen=True)
class Source:
    """What a layer is fed.

    Attributes:
        name: "forward/<layer>" for a recorded output, "" for anything else.
        part: the copy of anything else.
        tensor: the tensor, as long as it lives.
        version: how often it had been changed in place.
    """

    name: str
    part: Part | None
    tensor: Callable[[], Tensor]
    version: int

    @property
    def name_of_other(self) -> str:
        """The layer that was fed the same before, or ""."""
        is_input = self.name.startswith(FORWARD) and self.name.endswith(INPUT)
        return self.name.removeprefix(FORWARD).removesuffix(INPUT) if is_input else ""

    def is_fed_by(self, tensor: Tensor) -> bool:
        """Whether a tensor is what the layer was fed, unchanged."""
        return self.tensor() is tensor and self.version == version_of(tensor)


@dataclass(eq=False)
class Pass:
    """One pass through the layers.

    Attributes:
        is_root: whether the model itself was called.
        outputs: layer -> its output, in call order; a layer's second call is "<layer>#2".
        sources: layer -> what it was fed.
        batch: name -> what the model itself was fed.
        is_reached: whether a backward pass has reached it.
        is_marked: whether its graph has a `Mark`.
    """

    is_root: bool
    outputs: dict[str, Part] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    batch: dict[str, Source] = field(default_factory=dict)
    is_reached: bool = False
    is_marked: bool = False
    calls: list[tuple[str, Source | None]] = field(default_factory=list)
    known: dict[int, Source] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    mark: "Callable[[], Mark | None]" = lambda: None

    @property
    def rows(self) -> int | None:
        """The first axis of what the pass was fed; None where that is not known."""
        for source in self.batch.values():
            if source.part is not None and source.part.shape:
                return source.part.shape[0]
        return None

    def part_of_batch(self, name: str) -> Part | None:
        """What the model was fed under a name."""
        source = self.batch.get(name)
        return None if source is None else source.part

    def drop_copies(self) -> None:
        """Forget every array."""
        self.outputs = {name: replace(part, array=None) for name, part in self.outputs.items()}
        for sources in (self.batch, self.sources):
            for name, source in sources.items():
                if source.part is not None:
                    sources[name] = replace(source, part=replace(source.part, array=None))

    @property
    def is_out_of_reach(self) -> bool:
        """Whether no backward pass reached it and none will, since its graph is gone."""
        return self.is_marked and not self.is_reached and self.mark() is None


class Mark:
    """What hangs on the nodes of a pass's graph, and lives as long as they do."""

    def __init__(self, of: Pass) -> None:
        self.of = weakref.ref(of)

    def __call__(self, _: Any) -> None:
        """A backward pass reaches a node."""
        of = self.of()
        if of is not None:
            of.is_reached = True


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 where that is not counted."""
    try:
        return int(tensor._version)
    except RuntimeError:  # made in inference mode
        return 0


class Joined:
    """Passes of one update, joined along their rows.

    Attributes:
        passes: the passes that count.
        keys: the layers, in call order.
        without_rows: layers of which equal outputs were kept once.
    """

    def __init__(self, passes: list[Pass]) -> None:
        self.passes = passes
        self.keys = list(dict.fromkeys(key for one in passes for key in one.outputs))
        self.without_rows: set[str] = set()
        self._is_same_data = bool(passes[0].batch) and all(
            _are_equal(
                [source.part for one in passes for source in [one.batch.get(name)] if source]
            )
            for name in passes[0].batch
        )

    def batch(self) -> dict[str, Part]:
        """What the model was fed in all passes."""
        names = list(self.passes[0].batch)
        if any(list(one.batch) != names for one in self.passes):
            return {}
        batch: dict[str, Part] = {}
        for name in names:
            batch |= self.named(name, [one.part_of_batch(name) for one in self.passes])
        return batch

    def grows(self, key: str) -> bool:
        """Whether what feeds a layer is known to grow with the rows."""
        sources = [one.sources.get(key) for one in self.passes]
        first = sources[0]
        if first is None:
            return False
        if first.name:
            fed_by = first.name.removeprefix(FORWARD)
            return fed_by not in self.without_rows
        return not _are_equal([source.part if source else None for source in sources])

    def named(
        self, key: str, parts: Sequence[Part | None], grows: bool = False
    ) -> list[tuple[str, Part]]:
        """The join of a layer's outputs under its name; outputs of several shapes, each under a
        name of its own.

        Args:
            key: the layer.
            parts: its output in each pass, None where there is none.
            grows: whether it is known to grow with the rows.
        """
        pairs = [(part, one.rows) for part, one in zip(parts, self.passes) if part is not None]
        present = [part for part, _ in pairs]
        if len(present) == 1:
            return [(key, present[0])]
        if all(not part.shape for part in present):
            return [(key, _joined(present, None))]
        axis = _axis_of_rows(pairs)
        is_one_row = pairs[0][1] == 1 and not self._is_same_data and not grows
        if (axis != 0 or is_one_row) and _are_equal(present):
            self.without_rows.add(key)
            return [(key, present[0])]
        axis = axis or 0
        if len({part.shape[:axis] + part.shape[axis + 1 :] for part in present}) == 1:
            return [(key, _joined(present, axis))]
        names = [key, *(f"{key}#{number}" for number in range(2, len(present) + 1))]
        return [(name, replace(part, summary=None)) for name, part in zip(names, present)]

    def fed_by(
        self, key: str, given: Mapping[str, Tensor], batch: Mapping[str, Part]
    ) -> set[str | None]:
        """What feeds a layer, in each pass: a name in the trace; None where it is not known."""
        return {
            self._name_of_source(one, key, given, batch)
            for one in self.passes
            if key in one.outputs
        }

    def _name_of_source(
        self, one: Pass, key: str, given: Mapping[str, Tensor], batch: Mapping[str, Part]
    ) -> str | None:
        source = one.sources.get(key)
        if source is not None and source.name_of_other:
            key = source.name_of_other
            source = one.sources.get(key)
        if source is None:
            return None
        if source.name:
            return source.name
        for name, tensor in given.items():
            if source.is_fed_by(tensor):
                return BATCH + name
        for name in batch:
            if one.batch[name] is source:
                return BATCH + name
        return FORWARD + key + INPUT


def _axis_of_rows(pairs: Sequence[tuple[Part, int | None]]) -> int | None:
    """The first of two axes that is as long as the rows are many, in each pass; None for none."""
    for axis in (0, 1):
        if all(
            rows is not None and len(part.shape) > axis and part.shape[axis] == rows
            for part, rows in pairs
        ):
            return axis
    return None


def _joined(parts: Sequence[Part], axis: int | None) -> Part:
    """Tensors along an axis; numbers in a new one. Their dtype is that of the first."""
    arrays = [part.array for part in parts if part.array is not None]
    array = None
    if len(arrays) == len(parts):
        array = np.stack(arrays) if axis is None else np.concatenate(arrays, axis)
    if axis is None:
        shape: tuple[int, ...] = (len(parts),)
    else:
        length = sum(part.shape[axis] for part in parts)
        shape = (*parts[0].shape[:axis], length, *parts[0].shape[axis + 1 :])
    return replace(
        parts[0],
        array=array,
        shape=shape,
        bytes=sum(part.bytes for part in parts),
        summary=_joined_summary(parts) if axis == 0 else None,
    )


def _joined_summary(parts: Sequence[Part]) -> Summary | None:
    """The summary of rows that follow one another; None unless each was made of its place."""
    rows = 0
    joined: Summary | None = None
    for part in parts:
        if part.summary is None or part.first_row != rows:
            return None
        rows += part.shape[0]
        joined = part.summary if joined is None else joined.followed_by(part.summary)
    return joined


def _are_equal(parts: Sequence[Part | None]) -> bool:
    """Whether all tensors hold the same bits, as far as their copies or summaries tell."""
    first = parts[0]
    return all(_is_equal(first, part) for part in parts)


def _is_equal(one: Part | None, other: Part | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    if one.array is not None and other.array is not None:
        bits = f"u{one.array.itemsize}"
        return np.array_equal(one.array.view(bits), other.array.view(bits))
    if one.summary is None or other.summary is None:
        return False
    return one.summary.statistics == other.summary.statistics
