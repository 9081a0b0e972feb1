"""A table from one or two files of a user."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.columns import (
    Column,
    Places,
    feature,
    labels,
    missing_labels,
    number_column,
)
from lockstep.data_prep.files import read_frame
from lockstep.data_prep.oddities import odd_columns
from lockstep.data_prep.table import Note, Table, counted, listed, nearest
from lockstep.errors import InputError
from lockstep.recipe import Data

if TYPE_CHECKING:
    import polars

__all__ = ["read_file"]


def read_file(data: Data, numbers: bool) -> Table:
    """The table of the file `data.path`, and below it of `data.holdout`.

    Args:
        data: the section that names the files and the target.
        numbers: whether the target is a number, and no class.

    Raises:
        InputError: a file, column or cell that cannot be used; names it (rows are counted from 1).
    """
    if not data.path:
        raise InputError('data.path: source = "file" needs a .csv, .tsv, .parquet or .npz file')
    if not data.target:
        raise InputError("data.target: name the column to predict (--target COLUMN)")
    frame, places, notes = _read_frames(data)
    rows = frame.height
    absent = missing_labels(frame[data.target], data)
    training = places.rows
    if data.missing == "drop" and absent.any():
        present_N = (~absent).to_numpy()
        training = int(present_N[:training].sum())
        frame = frame.filter(~absent)
        places = places.only(present_N)
        _refuse_no_rows(places, frame.height, {data.target: rows})
    target = frame.drop_in_place(data.target)
    values_N, warning = _read_target(places, target, data, numbers)
    columns, x_ND = _read_features(places, frame, data)
    categories = {name: column.categories for name, column in columns.items()}
    warnings = [warning, *(column.warning for column in columns.values())]
    warnings += odd_columns(x_ND[:training], categories)
    if data.missing == "drop":
        x_ND, values_N, training = _without_missing(places, columns, x_ND, values_N, training)
        left_out = rows - len(x_ND)
        if left_out:
            notes.append(("missing values", f"{left_out} of {rows} rows left out"))
    if data.holdout and training == len(x_ND):
        raise InputError(f"{places.holdout}: data.missing = drop leaves no row of it")
    classes, y_N = ((), values_N) if numbers else _classes(places, values_N, training)
    commas = [name for name, column in columns.items() if column.commas]
    if commas:
        notes.append(("decimal comma", listed(commas)))
    return Table(
        x_ND=x_ND,
        y_N=y_N,
        columns=tuple(columns),
        classes=classes,
        target=data.target,
        categories=tuple(categories.values()) if any(categories.values()) else (),
        held_out=len(x_ND) - training,
        notes=tuple(notes),
        warnings=tuple(filter(None, warnings)),
    )


# ---- frames


def _read_frames(data: Data) -> tuple["polars.DataFrame", Places, list[Note]]:
    """The rows of the file and below them of the hold-out file, their places, and notes."""
    path = Path(data.path)
    frame, notes = _read_columns(path, data)
    if not data.holdout:
        return frame, Places(path, frame.height), notes
    holdout = Path(data.holdout)
    below, _ = _read_columns(holdout, data)
    places = Places(path, frame.height, holdout)
    for name in (*frame.columns, *below.columns):
        if name not in below.columns:
            raise InputError(f"{holdout}: no column {name!r}, which {path.name} has")
        if name not in frame.columns:
            raise InputError(f"{holdout}: column {name!r} is not in {path.name}")
    notes.append(("hold-out file", f"{counted(below.height, 'row')} of {holdout.name}"))
    return _stacked(frame, below), places, notes


def _read_columns(path: Path, data: Data) -> tuple["polars.DataFrame", list[Note]]:
    """A file's columns without those to drop, and notes on how it was read."""
    frame, notes = read_frame(path, data)
    if data.target not in frame.columns:
        hint = nearest(data.target, frame.columns, "columns")
        raise InputError(f"{path}: no column {data.target!r} for the target{hint}")
    for name in data.drop:
        if name == data.target:
            raise InputError(f"data.drop: {name!r} is the target")
        if name not in frame.columns:
            hint = nearest(name, frame.columns, "columns")
            raise InputError(f"data.drop: {path} has no column {name!r}{hint}")
    frame = frame.drop(data.drop)
    ends_unnamed = frame.width > 1 and frame.columns[-1] == ""
    if ends_unnamed and frame.height and frame[""].null_count() == frame.height:
        frame = frame.drop("")  # rows end in a separator
    if frame.width < 2:
        raise InputError(f"{path}: no feature column beside the target {data.target!r}")
    if frame.height == 0:
        raise InputError(f"{path}: no rows")
    if data.drop:
        notes.append(("columns left out", listed(data.drop)))
    return frame, notes


def _stacked(frame: "polars.DataFrame", below: "polars.DataFrame") -> "polars.DataFrame":
    """One frame below the other; a column that is text in one is text in both."""
    import polars

    texts = (polars.String, polars.Categorical, polars.Enum)
    names = [
        name for name in frame.columns if frame[name].dtype in texts or below[name].dtype in texts
    ]
    as_text = polars.col(names).cast(polars.String)
    try:
        upper = frame.with_columns(as_text)
        lower = below.select(frame.columns).with_columns(as_text)
        return polars.concat([upper, lower], how="vertical_relaxed")
    except polars.exceptions.PolarsError as error:
        raise InputError(
            f"data.holdout: columns of other kinds than the first file's: {str(error)[:80]}"
        ) from None


# ---- columns


def _read_target(
    places: Places, target: "polars.Series", data: Data, numbers: bool
) -> tuple[NDArray[Any], str]:
    """Numbers or labels (N,), and a warning or ""."""
    if not numbers:
        return labels(places, target, data)
    column = number_column(places, target, data, "target column")
    return column.values_N, column.warning


def _read_features(
    places: Places, frame: "polars.DataFrame", data: Data
) -> tuple[dict[str, Column], NDArray[np.float64]]:
    """The features by name, and their values (N, D), NaN if missing. The frame is emptied."""
    names = frame.columns
    # columns that polars read as floats have points; the others are read cell by cell
    points = [name for name in names if frame[name].dtype.is_float()]
    x_ND = np.empty((frame.height, len(names)))
    columns: dict[str, Column] = {}
    for number, name in enumerate(names):
        column = feature(places, frame.drop_in_place(name), data)
        x_ND[:, number] = column.values_N
        if data.missing in ("mean", "median") and np.isnan(column.values_N).all():
            raise InputError(
                f"{places.path}: column {name!r} has no value in any row; data.drop leaves it out"
            )
        columns[name] = column._replace(values_N=np.empty(0))
        if column.commas and points:
            raise InputError(
                f"{places.path}: numbers of column {name!r} have a comma before their fraction, "
                f"those of {points[0]!r} a point; it must be the same in both"
            )
    return columns, x_ND


def _without_missing(
    places: Places,
    columns: dict[str, Column],
    x_ND: NDArray[np.float64],
    values_N: NDArray[Any],
    training: int,
) -> tuple[NDArray[np.float64], NDArray[Any], int]:
    """The rows without a missing value, and how many of them lie outside the hold-out file."""
    absent_ND = np.isnan(x_ND)
    complete_N = np.asarray(~absent_ND.any(axis=1))
    if complete_N.all():
        return x_ND, values_N, training
    left = int(complete_N[:training].sum())
    missing_D = absent_ND.sum(axis=0).tolist()
    _refuse_no_rows(places, left, dict(zip(columns, missing_D)))
    return x_ND[complete_N], values_N[complete_N], left


def _refuse_no_rows(places: Places, left: int, counts: dict[str, int]) -> None:
    """Raise InputError if no row is left; `counts` has each column's missing values."""
    if not left:
        worst = max(counts, key=lambda name: counts[name])
        raise InputError(
            f"{places.path}: data.missing = drop leaves no row to train on; column {worst!r} has "
            f"{counts[worst]} missing values"
        )


def _classes(
    places: Places, values_N: NDArray[Any], training: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of the classes, and the class of each row, from 0.

    Raises:
        InputError: a class that only the hold-out file has.
    """
    known, y_N = np.unique(values_N, return_inverse=True)
    if training < len(y_N):
        unseen = np.setdiff1d(y_N[training:], y_N[:training])
        if len(unseen):
            raise InputError(
                f"{places.holdout}: class {str(known[unseen[0]])!r} does not occur in "
                f"{places.path.name}"
            )
    return tuple(str(name) for name in known.tolist()), y_N.astype(np.int64)
