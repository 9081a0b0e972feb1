"""The columns of a data frame as numbers, categories and labels.

Every cell is checked, and a message names the cell at fault.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.recipe import Data
from lockstep.recipe.losses.base import number_losses

if TYPE_CHECKING:
    import polars

__all__ = ["Column", "Places", "feature", "labels", "missing_labels", "number_column"]

MARKS = (
    "",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "#NA",
    "<NA>",
    "NaN",
    "nan",
    "-nan",
    "NULL",
    "null",
    "None",
    "?",
)
"""Cells that are missing values in text and numbers: pandas' marks, and the question mark."""

NUMBER_MARKS = (*MARKS, "na", "none", "-", "--", ".")
"""Cells that are missing values in numbers; in text a minus may be a category."""

MISSING_CATEGORY = "(missing)"
LARGEST_EXACT = 2**53
"""The integer up to which float64 holds every integer."""
CATEGORIES = 1000
"""The most categories that a column may have."""

DATE = (
    r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ]\d{1,2}:\d{2}.*)?$"
    r"|^\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})( \d{1,2}:\d{2}.*)?$"
    r"|^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?$"
    r"|^\d{1,2}[- ][A-Za-z]{3,9}\.?[- ]\d{2,4}$|^[A-Za-z]{3,9}\.? \d{1,2}, \d{4}$"
)
COMMA_NUMBER = r"^[+-]?\d*(,\d+)?([eE][+-]?\d+)?$"
CERTAIN_COMMA = r"^[+-]?(0?|\d{4,}),|,(\d{1,2}|\d{4,})([eE][+-]?\d+)?$"
THOUSANDS = re.compile(r"[+-]?\d{1,3}(([,' ]\d{3})+(\.\d+)?|(\.\d{3}){2,}|(\.\d{3})+,\d+)")
TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Places:
    """The places of rows in the user's files.

    The first `rows` rows lie in the file `path`, the others in the hold-out file. `numbers_N` has
    the numbers of the rows that remain, where some were left out.
    """

    path: Path
    rows: int
    holdout: Path | None = None
    numbers_N: NDArray[np.int64] | None = None

    def __call__(self, row: int) -> str:
        """`file: row 7`, counted from 1."""
        number = row if self.numbers_N is None else int(self.numbers_N[row])
        if number < self.rows or self.holdout is None:
            return f"{self.path}: row {number + 1}"
        return f"{self.holdout}: row {number - self.rows + 1}"

    def only(self, chosen_N: NDArray[np.bool_]) -> "Places":
        """The places of the rows that are chosen."""
        return replace(self, numbers_N=np.flatnonzero(chosen_N))


class Column(NamedTuple):
    """A feature, shape (N,), float64: numbers, or the positions of its categories; NaN if missing.

    `commas` says whether its numbers had a comma before their fraction.
    """

    values_N: NDArray[np.float64]
    categories: tuple[str, ...] = ()
    warning: str = ""
    commas: bool = False


def feature(places: Places, column: "polars.Series", data: Data) -> Column:
    """A feature as numbers or categories.

    Raises:
        InputError: a cell that is neither; names it.
    """
    import polars

    column = _stripped(column)
    if column.dtype == polars.String and _is_text(column, data):
        return _categories(places, column, data)
    return number_column(places, column, data)


def number_column(
    places: Places, column: "polars.Series", data: Data, what: str = "column", cure: str = ""
) -> Column:
    """A column of numbers, NaN where one is missing.

    Args:
        places: the places of the rows.
        column: the cells.
        data: the section that says what becomes of missing values.
        what: "column" or "target column", for the message.
        cure: advice about text, for the message.

    Raises:
        InputError: a cell that is no finite number, or is missing where the recipe refuses that;
            names the first.
    """
    import polars

    others = (polars.Boolean, polars.String, polars.Null)
    if not column.dtype.is_numeric() and column.dtype not in others:
        raise InputError(
            f"{places.path}: {what} {column.name!r} holds {column.dtype}; must hold numbers"
        )
    column = _stripped(column)
    absent = _is_one_of(column, (*NUMBER_MARKS, *data.missing_marks))
    commas = column.dtype == polars.String and _has_commas(column.filter(~absent))
    values_N = _as_numbers(places, column, absent, data, commas=commas)
    absent_N = absent.to_numpy()
    bad_N = ~np.isfinite(values_N) | absent_N
    if data.missing != "refuse" and what == "column":
        bad_N &= ~absent_N
    if bad_N.any():
        row = int(bad_N.argmax())
        is_absent = bool(absent_N[row])
        raise InputError(_refusal(places, column, row, what, cure, is_absent=is_absent))
    if absent_N.any():
        values_N = np.where(absent_N, np.nan, values_N)
    return Column(values_N, warning=_rounding(column, what), commas=commas)


def labels(places: Places, column: "polars.Series", data: Data) -> tuple[NDArray[Any], str]:
    """The target column as integers or text, and a warning or "".

    Raises:
        InputError: a cell that is neither; names the first.
    """
    import polars

    named = f"target column {column.name!r}"
    column = _stripped(column)
    absent = missing_labels(column, data)
    if absent.any():
        row = int(absent.arg_max() or 0)
        cell = column[row]
        fault = "is empty" if cell is None or cell == "" else f"holds {cell!r}, a missing value"
        raise InputError(
            f"{places(row)}, {named} {fault} (data.missing = drop leaves such rows out)"
        )
    if column.dtype == polars.String:
        if len(column) and column.str.contains(DATE).all():
            raise InputError(
                f"{places(0)}, {named} holds dates ({column[0]!r}); must hold integers or text"
            )
        return _text_labels(column, data, named)
    if not (column.dtype.is_numeric() or column.dtype == polars.Boolean):
        raise InputError(f"{places.path}: {named} holds {column.dtype}; must hold integers or text")
    if column.dtype in (polars.Int128, polars.UInt128):  # NumPy has no such integers
        raise InputError(
            f"{places.path}: {named} holds integers beyond 64 bits; write them as text"
        )
    if column.dtype.is_decimal():
        column = column.cast(polars.Float64)
    values_N = column.to_numpy()
    if values_N.dtype.kind == "f":
        values_N = _whole_numbers(places, values_N, named)
    return values_N, ""


def missing_labels(column: "polars.Series", data: Data) -> "polars.Series":
    """Whether each cell of the target is a missing value, shape (N,), Boolean.

    In text, "NA" is a class unless the recipe says what becomes of missing values.
    """
    import polars

    column = _stripped(column)
    if data.missing == "refuse":
        if column.dtype.is_float():  # NaN is refused as what it is
            return column.is_null()
        return _is_one_of(column, ("", *data.missing_marks))
    is_text = column.dtype == polars.String and _is_text(column, data)
    marks = MARKS if is_text else NUMBER_MARKS
    return _is_one_of(column, (*marks, *data.missing_marks))


def _stripped(column: "polars.Series") -> "polars.Series":
    """The column without blanks around its text, and with categories as text."""
    import polars

    if column.dtype in (polars.Categorical, polars.Enum):
        column = column.cast(polars.String)
    return column.str.strip_chars() if column.dtype == polars.String else column


def _is_one_of(column: "polars.Series", marks: Sequence[str]) -> "polars.Series":
    """Whether each cell is missing or one of the marks, shape (N,), Boolean.

    A number is compared with the marks that are numbers.
    """
    import polars

    absent = column.is_null()
    if column.dtype == polars.String:
        return absent | column.is_in(list(marks))
    if column.dtype.is_float():
        absent |= column.is_nan().fill_null(True)
    if column.dtype.is_numeric():
        for number in map(_number, marks):
            if number is not None and np.isfinite(number):
                absent |= (column.cast(polars.Float64) == number).fill_null(True)
    return absent


def _text_labels(column: "polars.Series", data: Data, named: str) -> tuple[NDArray[Any], str]:
    """Text as classes; as integers, if only marks of missing values had made them text.

    The second value is a warning or "".
    """
    import polars

    if data.missing == "drop":
        integers = column.cast(polars.Int64, strict=False)
        if not integers.null_count():
            return integers.to_numpy(), ""
    marks = column.filter(column.is_in(MARKS)).unique().sort().to_list()
    warning = ""
    if marks:
        warning = (
            f"{named}: {', '.join(map(repr, marks))} is a class of its own, not a missing value "
            "(data.missing = drop)"
        )
    return np.asarray(column.to_list()), warning


def _whole_numbers(places: Places, values_N: NDArray[Any], named: str) -> NDArray[np.int64]:
    values_N = values_N.astype(np.float64)
    with np.errstate(invalid="ignore"):
        is_whole_N = values_N == np.trunc(values_N)
        is_exact_N = np.abs(values_N) < LARGEST_EXACT
    bad_N = ~(is_whole_N & is_exact_N)
    if bad_N.any():
        row = int(bad_N.argmax())
        raise InputError(
            f"{places(row)}, {named} holds {values_N[row]}; a class must be an integer or text; "
            f"numbers need loss.name = {number_losses()}"
        )
    return values_N.astype(np.int64)


# ---- numbers in text


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _is_text(column: "polars.Series", data: Data) -> bool:
    """Whether a column of text has cells that are no numbers."""
    import polars

    is_mark = column.is_in([*NUMBER_MARKS, *data.missing_marks])
    filled = column.filter(column.is_not_null() & ~is_mark)
    if not len(filled):
        return False
    parsed = filled.cast(polars.Float64, strict=False)
    return bool(parsed.null_count()) and not _has_commas(filled) and not _are_truths(filled)


def _has_commas(filled: "polars.Series") -> bool:
    """Whether all cells are numbers with a comma at most, and one has a comma."""
    if not filled.str.contains(COMMA_NUMBER).all():
        return False
    return bool(filled.str.contains(",", literal=True).any())


def _are_truths(filled: "polars.Series") -> bool:
    return bool(filled.str.to_lowercase().is_in(list(TRUTHS)).all())


def _as_numbers(
    places: Places, column: "polars.Series", absent: "polars.Series", data: Data, *, commas: bool
) -> NDArray[np.float64]:
    """The column in float64, NaN where a cell is no number."""
    import polars

    if column.dtype == polars.String:
        filled = column.filter(~absent)
        if len(filled) and _are_truths(filled):
            lower = column.str.to_lowercase()
            column = lower.replace_strict(TRUTHS, default=None, return_dtype=polars.Float64)
        elif commas:
            if data.decimal == "seen" and not filled.str.contains(CERTAIN_COMMA).any():
                row = int(column.str.contains(",", literal=True).fill_null(False).arg_max() or 0)
                raise InputError(
                    f"{places(row)}, column {column.name!r} holds {column[row]!r}: a comma before "
                    "the fraction, or between thousands? data.decimal = comma says the former; for "
                    "the latter leave the commas out"
                )
            column = column.str.replace(",", ".", literal=True)
    numbers: NDArray[np.float64] = column.cast(polars.Float64, strict=False).to_numpy()
    return numbers


def _rounding(column: "polars.Series", what: str) -> str:
    """A warning of integers that float64 cannot tell apart, or ""."""
    if not column.dtype.is_integer() or not column.count():
        return ""
    least = column.min()
    most = column.max()
    assert isinstance(least, int)
    assert isinstance(most, int)
    if max(-least, most) <= LARGEST_EXACT:
        return ""
    return (
        f"{what} {column.name!r} has integers beyond 2^53, which are rounded: float64 cannot tell "
        "neighbours apart"
    )


def _refusal(
    places: Places, column: "polars.Series", row: int, what: str, cure: str, *, is_absent: bool
) -> str:
    """The message about a cell that is no number to train on; `cure` is advice about text."""
    cell = column[row]
    shown = repr(cell)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    start = f"{places(row)}, {what} {column.name!r}"
    if is_absent:
        fault = "is empty" if cell is None or cell == "" else f"holds {shown}"
        settings = "drop, mean or median" if what == "column" else "drop leaves such rows out"
        return f"{start} {fault}; must be a finite number (data.missing = {settings})"
    if not isinstance(cell, str) or _number(cell) is not None:
        return f"{start} holds {shown}; must be a finite number"
    if THOUSANDS.fullmatch(cell):
        return (
            f"{start} holds {shown}, a number with separators between its thousands; write it "
            "without"
        )
    return f"{start} holds {shown}, text where a number is due; must be a finite number{cure}"


# ---- categories


def _categories(places: Places, column: "polars.Series", data: Data) -> Column:
    """A column of text as the positions of its categories.

    Raises:
        InputError: dates, numbers with a few cells of text, or text that the recipe refuses.
    """
    import polars

    absent = _is_one_of(column, (*MARKS, *data.missing_marks))
    filled = column.filter(~absent)
    named = f"column {column.name!r}"
    if len(filled) and filled.str.contains(DATE).all():
        row = int((~absent).arg_max() or 0)
        raise InputError(
            f"{places(row)}, {named} holds dates ({column[row]!r}); write them as numbers, or "
            "leave the column out (data.drop)"
        )
    values = filled.unique()
    numbers = len(values) - values.cast(polars.Float64, strict=False).null_count()
    if data.categories == "refuse" or (numbers >= 20 and numbers >= 0.9 * len(values)):
        cure = "" if 2 * numbers > len(values) else " (data.categories = one-hot takes text)"
        return number_column(places, column, data, cure=cure)  # names the first cell of text
    if absent.any() and data.missing == "refuse":
        row = int(absent.arg_max() or 0)
        fault = f"holds {column[row]!r}" if column[row] else "is empty"
        raise InputError(
            f"{places(row)}, {named} {fault}; must be a category (data.missing = drop, mean or "
            "median)"
        )
    if len(values) > CATEGORIES:
        raise InputError(
            f"{places.path}: {named} has {len(values)} categories; must have at most {CATEGORIES}, "
            "or be left out (data.drop)"
        )
    categories = sorted(values.to_list())
    positions = {category: float(position) for position, category in enumerate(categories)}
    position = column.replace_strict(positions, default=None, return_dtype=polars.Float64)
    values_N = position.to_numpy()
    if absent.any() and data.missing != "drop":
        values_N = np.where(absent.to_numpy(), len(categories), values_N)
        categories.append(MISSING_CATEGORY)
    return Column(values_N, tuple(categories))
