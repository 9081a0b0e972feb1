"""A user's file as a data frame, whatever its format."""

import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.table import Note
from lockstep.data_prep.text import read_text
from lockstep.errors import InputError
from lockstep.files.input_file import input_size, refuse_expanding
from lockstep.files.memory import refuse_too_large
from lockstep.recipe import Data

if TYPE_CHECKING:
    import polars

__all__ = ["read_frame"]

CELL = 8
"""Bytes of a number in memory."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def read_frame(path: Path, data: Data) -> tuple["polars.DataFrame", list[Note]]:
    """The columns of a .csv, .tsv, .parquet or .npz file, and notes on how it was read.

    Raises:
        InputError: the file is missing, of another kind or damaged, or has two columns of one name.
    """
    import polars

    suffix = _suffix(path)
    # os.path.isfile, unlike Path.is_file, is also False for a name that the system refuses
    if not os.path.isfile(path):
        if os.path.exists(path) and not os.path.isdir(path):
            input_size(path)
        raise InputError(f"{path}: no such file")
    notes: list[Note] = []
    try:
        _refuse_expanding(path, suffix)
        if suffix == ".parquet":
            frame = polars.read_parquet(path)
        elif suffix == ".npz":
            frame = _read_npz(path, data.target)
        else:
            frame, notes = read_text(path, data, suffix)
    except InputError:
        raise
    # each reader has error types of its own, which all mean an unreadable file; a panic is no
    # Exception
    except (Exception, polars.exceptions.PanicException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a readable {suffix} file: {_short(reason)}") from None
    for name in frame.columns:
        # polars tells equal names of a CSV apart by this suffix
        original, suffix_of_polars, _ = name.rpartition("_duplicated_")
        if suffix_of_polars and original in frame.columns:
            raise InputError(f"{path}: two columns are named {original!r}")
    return frame, notes


def _refuse_expanding(path: Path, suffix: str) -> None:
    """Raise InputError where a table declares far more than its file holds.

    The check precedes any expansion.
    """
    import polars

    size = input_size(path)
    refuse_too_large(str(path), size)
    if suffix == ".npz" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            expanded = sum(entry.file_size for entry in archive.infolist())
            refuse_expanding(path, size, expanded)
    elif suffix == ".parquet":
        cells = 0
        with suppress(Exception):  # the reader will say how the file is damaged
            table = polars.scan_parquet(path)
            rows = int(table.select(polars.len()).collect().item())
            cells = rows * len(table.collect_schema())
        refuse_expanding(path, size, CELL * cells)


def _suffix(path: Path) -> str:
    """The suffix of a table's name, before that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_packed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    if is_packed:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in (".csv", ".tsv", ".parquet", ".npz"):
        raise InputError(f"{path}: must end in .csv, .tsv, .parquet or .npz")
    if is_packed and suffix in (".parquet", ".npz"):
        raise InputError(f"{path}: a {suffix} file is compressed in itself; unpack it first")
    return suffix


def _read_npz(path: Path, target: str) -> "polars.DataFrame":
    """The arrays of an .npz file as columns.

    A two-dimensional array becomes several: `x[0]`, `x[1]`, ... A target of shape (N, 1) keeps its
    name.
    """
    import polars

    columns: dict[str, NDArray[Any]] = {}
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a readable .npz file: not a zip archive")
    with np.load(path, allow_pickle=False) as arrays:
        for name, array in arrays.items():
            new = _columns_of(path, name, array, target)
            repeated = sorted(new.keys() & columns.keys())
            if repeated:
                raise InputError(f"{path}: two columns are named {repeated[0]!r}")
            columns |= new
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: arrays differ in length: {lengths}")
    return polars.DataFrame(columns)


def _columns_of(path: Path, name: str, array: NDArray[Any], target: str) -> dict[str, NDArray[Any]]:
    """One array of an .npz file as columns, by name."""
    if array.ndim and not len(array):  # without rows there may be any number of columns
        raise InputError(f"{path}: no rows")
    if array.ndim == 1:
        return {name: array}
    if array.ndim != 2:
        raise InputError(
            f"{path}: array {name!r} has shape {array.shape}; must have 1 or 2 dimensions"
        )
    if name == target:
        if array.shape[1] != 1:
            raise InputError(
                f"{path}: target {name!r} has shape {array.shape}; must have one column"
            )
        return {name: array[:, 0]}
    return {f"{name}[{i}]": array[:, i] for i in range(array.shape[1])}


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
