"""Arrays of a batch as explanations see them: rows as keys, and names in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.pair import LoopPair, LoopSide
from lockstep.diagnose.units import dtype_of, unit_of_dtype

__all__ = ["batch_of", "is_labels", "keys_of", "noun", "row_arrays", "unit_of_batch"]

FEATURES = ("x", "inputs", "input", "images", "image", "features", "pixel_values", "0")
LABELS = ("y", "labels", "label", "targets", "target", "1")

Values = Mapping[str, NDArray[Any]]


def batch_of(side: LoopSide, update: int) -> dict[str, NDArray[Any]]:
    """The arrays of a batch that have rows; integers and flags as int64, so that none overflows."""
    arrays = {}
    for name, array in side.tensors("batch", update).items():
        if array.ndim and len(array):
            arrays[name] = array.astype(np.int64) if array.dtype.kind in "iub" else array
    return arrays


def is_labels(name: str, array: NDArray[Any]) -> bool:
    """Whether an array is one of labels, by its name or its shape."""
    last = name.rpartition(".")[2]
    if last in LABELS:
        return True
    return array.dtype.kind == "i" and array.ndim == 1 and last not in FEATURES


def noun(name: str, array: NDArray[Any]) -> str:
    """An array in words, as a subject of "are"."""
    if is_labels(name, array):
        return "labels" if array.dtype.kind == "i" else f"targets ({name})"
    if array.dtype.kind == "i":
        return f"tokens ({name})" if array.ndim == 2 else f"values of {name}"
    return "features" if name.rpartition(".")[2] in FEATURES else f"values of {name}"


def row_arrays(mine: Values, other: Values) -> list[str]:
    """The names of arrays that both sides have with rows of one width, and with as many rows as
    their first.
    """
    names = [
        name for name in mine if name in other and mine[name].shape[1:] == other[name].shape[1:]
    ]
    rows = {len(mine[name]) for name in names}, {len(other[name]) for name in names}
    if len(rows[0]) > 1 or len(rows[1]) > 1:
        most = max(names, key=lambda name: mine[name].size)
        names = [
            name
            for name in names
            if len(mine[name]) == len(mine[most]) and len(other[name]) == len(other[most])
        ]
    return names


def keys_of(arrays: Values, names: Sequence[str], coarse: Mapping[str, Any]) -> list[bytes]:
    """A key of each row, by all of these arrays in a dtype of both sides."""
    rows = len(arrays[names[0]])
    columns = [arrays[name].astype(coarse[name]).reshape(rows, -1) for name in names]
    return [b"|".join(column[row].tobytes() for column in columns) for row in range(rows)]


def unit_of_batch(pair: LoopPair, name: str) -> float:
    """The unit roundoff of the coarser of both sides' arrays, and of float32 at most coarse."""
    key = f"detail/{pair.update}/batch/{name}"
    units = [
        unit_of_dtype(dtype_of(side.trace, key))
        for side in (pair.mine, pair.other)
        if key in side.trace.arrays
    ]
    return max([2.0**-53, *units])
