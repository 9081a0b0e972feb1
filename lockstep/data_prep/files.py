"""A user's file as a table: every column and cell checked, every fault named."""

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.table import Table, nearest
from lockstep.errors import InputError
from lockstep.input_file import input_size
from lockstep.recipe import Data

if TYPE_CHECKING:
    import polars

__all__ = ["read_file"]


def read_file(data: Data, numbers: bool) -> Table:
    """The table of `data.path`, with a number to predict or classes.

    Raises:
        InputError: a file, column or cell that cannot be used; names it (rows are counted from 1).
    """
    path = Path(data.path)
    if not data.path:
        raise InputError('data.path: source = "file" needs a .csv, .parquet or .npz file')
    if not data.target:
        raise InputError("data.target: name the column to predict (--target COLUMN)")
    frame = _read_frame(path)
    if data.target not in frame.columns:
        hint = nearest(data.target, frame.columns, "columns")
        raise InputError(f"{path}: no column {data.target!r} for the target{hint}")
    if frame.width < 2:
        raise InputError(f"{path}: no feature column beside the target {data.target!r}")
    if frame.height == 0:
        raise InputError(f"{path}: no rows")
    names = [name for name in frame.columns if name != data.target]
    x_ND = np.column_stack([_numbers(path, frame[name]) for name in names])
    if numbers:
        return Table(x_ND, _numbers(path, frame[data.target], "target column"), tuple(names), (), data.target)
    values_N = _labels(path, frame[data.target])
    classes, y_N = np.unique(values_N, return_inverse=True)
    return Table(x_ND, y_N.astype(np.int64), tuple(names), tuple(str(name) for name in classes.tolist()), data.target)


def _read_frame(path: Path) -> "polars.DataFrame":
    import polars

    readers = {
        ".csv": lambda: polars.read_csv(path, infer_schema_length=None),
        ".parquet": lambda: polars.read_parquet(path),
        ".npz": lambda: _read_npz(path),
    }
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: must end in .csv, .parquet or .npz")
    if not os.path.isfile(path):  # unlike Path.is_file, also False for a name that the system refuses
        if os.path.exists(path) and not os.path.isdir(path):
            input_size(path)
        raise InputError(f"{path}: no such file")
    try:
        frame = readers[path.suffix.lower()]()
    except InputError:
        raise
    # each reader has error types of its own; all mean an unreadable file; a panic is no Exception
    except (Exception, polars.exceptions.PanicException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a readable {path.suffix.lower()} file: {_short(reason)}") from None
    for name in frame.columns:
        original, renamed, _ = name.rpartition("_duplicated_")  # how polars keeps equal names of a CSV apart
        if renamed and original in frame.columns:
            raise InputError(f"{path}: two columns are named {original!r}")
    return frame


def _read_npz(path: Path) -> "polars.DataFrame":
    """Every array is a column, a two-dimensional one is a column for each of its own: `x[0]`, `x[1]`, ..."""
    import polars

    columns: dict[str, NDArray[Any]] = {}
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a readable .npz file: not a zip archive")
    with np.load(path, allow_pickle=False) as arrays:
        for name, array in arrays.items():
            if array.ndim == 1:
                columns[name] = array
            elif array.ndim == 2:
                columns |= {f"{name}[{i}]": array[:, i] for i in range(array.shape[1])}
            else:
                raise InputError(f"{path}: array {name!r} has shape {array.shape}; must have 1 or 2 dimensions")
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: arrays differ in length: {lengths}")
    return polars.DataFrame(columns)


def _numbers(path: Path, column: "polars.Series", what: str = "column") -> NDArray[np.float64]:
    """A column as float64, or an error that names the first cell that is not a finite number."""
    import polars

    if not (column.dtype.is_numeric() or column.dtype in (polars.Boolean, polars.String, polars.Null)):
        raise InputError(f"{path}: {what} {column.name!r} holds {column.dtype}; must hold numbers")
    cells = column.str.strip_chars() if column.dtype == polars.String else column
    numbers = cells.cast(polars.Float64, strict=False)
    found = numbers.to_numpy()
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        row = int(bad[0])
        cell = column[row]
        found_there = "is empty" if cell is None or cell == "" else f"holds {_short(repr(cell))}"
        if isinstance(cell, str) and cell and numbers[row] is None:
            found_there += ", text where a number is due"
        raise InputError(f"{path}: row {row + 1}, {what} {column.name!r} {found_there}; must be a finite number")
    return found


def _labels(path: Path, column: "polars.Series") -> NDArray[Any]:
    """The target column as integers or text, or an error that names the first cell that is neither."""
    import polars

    if column.null_count():
        row = int(column.is_null().arg_max() or 0)
        raise InputError(f"{path}: row {row + 1}, target column {column.name!r} is empty")
    if column.dtype == polars.String:
        column = column.str.strip_chars()
        if (empty := column == "").any():
            raise InputError(f"{path}: row {int(empty.arg_max() or 0) + 1}, target column {column.name!r} is empty")
        return np.asarray(column.to_list())
    if not (column.dtype.is_numeric() or column.dtype == polars.Boolean):
        raise InputError(f"{path}: target column {column.name!r} holds {column.dtype}; must hold integers or text")
    if column.dtype in (polars.Int128, polars.UInt128):  # NumPy has no such integers
        raise InputError(f"{path}: target column {column.name!r} holds integers beyond 64 bits; write them as text")
    values_N = column.cast(polars.Float64).to_numpy() if column.dtype.is_decimal() else column.to_numpy()
    if values_N.dtype.kind == "f":
        values_N = values_N.astype(np.float64)
        with np.errstate(invalid="ignore"):
            # from 2^53 on, neighbouring integers share one float64
            bad = np.flatnonzero(~((values_N == np.trunc(values_N)) & (np.abs(values_N) < 2**53)))
        if len(bad):
            raise InputError(
                f"{path}: row {bad[0] + 1}, target column {column.name!r} holds {values_N[bad[0]]}; "
                "a class must be an integer or text; numbers need loss.name = mse or huber"
            )
        values_N = values_N.astype(np.int64)
    return values_N


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
