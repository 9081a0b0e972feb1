"""TensorBoard's event files as columns of numbers, read by the package tensorboard."""

from array import array
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lockstep.errors import InputError
from lockstep.files.input_file import input_size, parsing
from lockstep.logs.log import Cells, Table

__all__ = ["is_event_file", "is_event_name", "read_events"]

STEP = "step of the event"
"""The column of steps; no tag has its name."""
FRAME = 16
"""Bytes that frame a record: its length, and two checksums."""
EVENT_FILE = "tfevents"
VERSION = b"brain.Event:"
"""Text in the first record of every event file."""


def is_event_name(path: Path) -> bool:
    """Whether a file has the name that TensorBoard looks for."""
    return EVENT_FILE in path.name


def is_event_file(path: Path, head: bytes) -> bool:
    """Whether a file holds events, by its first record; an empty one by its name."""
    return VERSION in head[:64] or (is_event_name(path) and not head)


def read_events(paths: Sequence[Path]) -> Table:
    """The scalars of the event files of one run, tag by tag, with the steps in a column `STEP`.

    A place is the number of an event. The events of a file come before those of a later one.

    Raises:
        InputError: the package tensorboard is not installed, or a file cannot be read.
    """
    tags: dict[str, tuple[array[int], array[float]]] = {}
    steps = array("q")
    notes: list[str] = []
    for path in paths:
        for event in _events(path, notes):
            steps.append(event.step)
            for value in event.summary.value:
                number = _scalar(value)
                if number is None:
                    continue
                places, numbers = tags.setdefault(value.tag, (array("q"), array("d")))
                places.append(len(steps))
                numbers.append(number)
    every_N = np.arange(1, len(steps) + 1)
    columns = {tag: _cells(*cells) for tag, cells in tags.items()}
    columns[STEP] = Cells(every_N, np.array(steps, dtype=np.float64))
    return Table("TensorBoard events", columns, "event", tuple(notes), STEP)


def _cells(places: "array[int]", numbers: "array[float]") -> Cells:
    return Cells(np.array(places, dtype=np.int64), np.array(numbers, dtype=np.float64))


def _events(path: Path, notes: list[str]) -> Iterator[Any]:
    """The events of a file in order, up to where it is cut off or damaged, which a note says."""
    loader = _module("tensorboard.backend.event_processing.event_file_loader")
    event_of = _module("tensorboard.compat.proto.event_pb2").Event.FromString
    size = input_size(path)
    read = count = 0
    with parsing(path, "not a readable event file"):
        for record in loader.RawEventFileLoader(str(path)).Load():
            read += len(record) + FRAME
            count += 1
            yield event_of(record)
    if read < size:
        notes.append(f"{path.name} is cut off or damaged after event {count}")


def _scalar(value: Any) -> float | None:
    """The number of a summary; None for a picture, a histogram or a text."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.tensor.dtype not in NUMBERS:
        return None
    if any(dimension.size != 1 for dimension in value.tensor.tensor_shape.dim):
        return None
    array_of = _module("tensorboard.util.tensor_util").make_ndarray
    return float(array_of(value.tensor).reshape(-1)[0])


NUMBERS = (1, 2, 3, 9)
"""TensorFlow's numbers of the dtypes float32, float64, int32 and int64."""


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"TensorBoard's event files are read by the package {error.name}, which is not "
            "installed: pip install 'lockstep[tensorboard]'"
        ) from None
