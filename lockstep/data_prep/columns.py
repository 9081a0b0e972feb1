"""The columns of a data frame as numbers, categories and labels; every cell is checked, every fault
named."""

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
"""Cells that are missing values in text and numbers: those of pandas, and the question mark."""

NUMBER_MARKS = (*MARKS, "na", "none", "-", "--", ".")
"""Those of numbers; in text a minus may be a category."""

MISSING_CATEGORY = "(missing)"
LARGEST_EXACT = 2**53
CATEGORIES = 1000
"""Categories of a column from which on it is none."""

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
    """The places of rows: the first `rows` lie in the file, the others in the hold-out file.
    `kept_N` has the numbers of the rows that remain, if some were left out."""

    path: Path
    rows: int
    holdout: Path | None = None
    kept_N: NDArray[np.int64] | None = None

    def __call__(self, row: int) -> str:
        """`file: row 7`, counted from 1."""
        number = row if self.kept_N is None else int(self.kept_N[row])
        if number < self.rows or self.holdout is None:
            return f"{self.path}: row {number + 1}"
        return f"{self.holdout}: row {number - self.rows + 1}"

    def only(self, chosen_N: NDArray[np.bool_]) -> "Places":
        """The places of some of the rows."""
        return replace(self, kept_N=np.flatnonzero(chosen_N))


class Column(NamedTuple):
    """A feature (N,) float64: numbers, or the positions of its categories; NaN if missing. `commas`
    says whether its numbers had a comma before their fraction."""

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
    """A column of numbers, NaN where one is missing; `cure` says what to do about text.

    Raises:
        InputError: a cell that is no finite number, or missing where the recipe refuses that; names
        the first.
    """
    import polars

    if not (
        column.dtype.is_numeric() or column.dtype in (polars.Boolean, polars.String, polars.Null)
    ):
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
        raise InputError(_refusal(places, column, row, what, cure, is_absent=bool(absent_N[row])))
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
        held = "is empty" if cell is None or cell == "" else f"holds {cell!r}, a missing value"
        raise InputError(
            f"{places(row)}, {named} {held} (data.missing = drop leaves such rows out)"
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
    values_N = (
        column.cast(polars.Float64).to_numpy() if column.dtype.is_decimal() else column.to_numpy()
    )
    return (_whole_numbers(places, values_N, named) if values_N.dtype.kind == "f" else values_N), ""


def missing_labels(column: "polars.Series", data: Data) -> "polars.Series":
    """Which cells of the target are missing values, (N,) Boolean. In text, "NA" is missing only if
    the recipe says what becomes of missing values; otherwise it is a class."""
    import polars

    column = _stripped(column)
    if data.missing == "refuse":
        if column.dtype.is_float():  # NaN is refused as what it is
            return column.is_null()
        return _is_one_of(column, ("", *data.missing_marks))
    text = column.dtype == polars.String and _is_text(column, data)
    return _is_one_of(column, (*(MARKS if text else NUMBER_MARKS), *data.missing_marks))


def _stripped(column: "polars.Series") -> "polars.Series":
    """Text without blanks around it; categories as text."""
    import polars

    if column.dtype in (polars.Categorical, polars.Enum):
        column = column.cast(polars.String)
    return column.str.strip_chars() if column.dtype == polars.String else column


def _is_one_of(column: "polars.Series", marks: Sequence[str]) -> "polars.Series":
    """Which cells are missing or a mark of it, (N,) Boolean; a number is compared with marks that
    are numbers.
    """
    import polars

    absent = column.is_null()
    if column.dtype == polars.String:
        return absent | column.is_in(list(marks))
    if column.dtype.is_float():
        absent |= column.is_nan().fill_null(True)
    if column.dtype.is_numeric():
        numbers = [
            number for number in map(_number, marks) if number is not None and np.isfinite(number)
        ]
        for number in numbers:
            absent |= (column.cast(polars.Float64) == number).fill_null(True)
    return absent


def _text_labels(column: "polars.Series", data: Data, named: str) -> tuple[NDArray[Any], str]:
    """Text as classes; as integers, if only the marks of missing values had made them text."""
    import polars

    if data.missing == "drop":
        integers = column.cast(polars.Int64, strict=False)
        if not integers.null_count():
            return integers.to_numpy(), ""
    marks = column.filter(column.is_in(MARKS)).unique().sort().to_list()
    warning = (
        f"{named}: {', '.join(map(repr, marks))} is a class of its own, not a missing value "
        "(data.missing = drop)"
    )
    return np.asarray(column.to_list()), warning if marks else ""


def _whole_numbers(places: Places, values_N: NDArray[Any], named: str) -> NDArray[np.int64]:
    values_N = values_N.astype(np.float64)
    with np.errstate(invalid="ignore"):
        # from 2^53 on, neighbouring integers share one float64
        bad = np.flatnonzero(
            ~((values_N == np.trunc(values_N)) & (np.abs(values_N) < LARGEST_EXACT))
        )
    if len(bad):
        row = int(bad[0])
        raise InputError(
            f"{places(row)}, {named} holds {values_N[row]}; "
            f"a class must be an integer or text; numbers need loss.name = {number_losses()}"
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

    filled = column.filter(
        column.is_not_null() & ~column.is_in([*NUMBER_MARKS, *data.missing_marks])
    )
    if not len(filled):
        return False
    parsed = filled.cast(polars.Float64, strict=False)
    return bool(parsed.null_count()) and not _has_commas(filled) and not _are_truths(filled)


def _has_commas(filled: "polars.Series") -> bool:
    """Whether all cells are numbers, of which one has a comma before its fraction, or in it."""
    return bool(filled.str.contains(COMMA_NUMBER).all()) and bool(
        filled.str.contains(",", literal=True).any()
    )


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
                    f"{places(row)}, column {column.name!r} holds {column[row]!r}: a comma "
                    "before the fraction, or "
                    "between thousands? data.decimal = comma says the former; for the "
                    "latter leave the commas out"
                )
            column = column.str.replace(",", ".", literal=True)
    numbers: NDArray[np.float64] = column.cast(polars.Float64, strict=False).to_numpy()
    return numbers


def _rounding(column: "polars.Series", what: str) -> str:
    """A warning of integers that float64 cannot tell apart, or ""."""
    if not column.dtype.is_integer() or not column.count():
        return ""
    least, most = column.min(), column.max()
    assert isinstance(least, int)
    assert isinstance(most, int)
    if max(-least, most) <= LARGEST_EXACT:
        return ""
    return (
        f"{what} {column.name!r} has integers beyond 2^53, which are rounded: float64 cannot "
        "tell neighbours apart"
    )


def _refusal(
    places: Places, column: "polars.Series", row: int, what: str, text: str, *, is_absent: bool
) -> str:
    """Why a cell is no number that can be trained on."""
    cell = column[row]
    shown = repr(cell) if len(repr(cell)) <= 80 else repr(cell)[:77] + "..."
    start = f"{places(row)}, {what} {column.name!r}"
    if is_absent:
        held = "is empty" if cell is None or cell == "" else f"holds {shown}"
        cure = "drop leaves such rows out" if what != "column" else "drop, mean or median"
        return f"{start} {held}; must be a finite number (data.missing = {cure})"
    if isinstance(cell, str) and _number(cell) is None:
        if THOUSANDS.fullmatch(cell):
            return (
                f"{start} holds {shown}, a number with separators between its thousands; write "
                "it without"
            )
        return f"{start} holds {shown}, text where a number is due; must be a finite number{text}"
    return f"{start} holds {shown}; must be a finite number"


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
            f"{places(row)}, {named} holds dates ({column[row]!r}); write them as numbers, "
            "or leave the column out "
            "(data.drop)"
        )
    values = filled.unique()
    numbers = len(values) - values.cast(polars.Float64, strict=False).null_count()
    if data.categories == "refuse" or (numbers >= 20 and numbers >= 0.9 * len(values)):
        cure = "" if 2 * numbers > len(values) else " (data.categories = one-hot takes text)"
        return number_column(
            places, column, data, cure=cure
        )  # which names the first cell that is no number
    if absent.any() and data.missing == "refuse":
        row = int(absent.arg_max() or 0)
        held = f"holds {column[row]!r}" if column[row] else "is empty"
        raise InputError(
            f"{places(row)}, {named} {held}; must be a category (data.missing = drop, mean "
            "or median)"
        )
    if len(values) > CATEGORIES:
        raise InputError(
            f"{places.path}: {named} has {len(values)} categories; must have at most "
            f"{CATEGORIES}, or be left out "
            "(data.drop)"
        )
    known = sorted(values.to_list())
    number_of = {name: float(number) for number, name in enumerate(known)}
    codes = column.replace_strict(number_of, default=None, return_dtype=polars.Float64)
    values_N = codes.to_numpy()
    if absent.any() and data.missing != "drop":
        values_N = np.where(absent.to_numpy(), len(known), values_N)
        known.append(MISSING_CATEGORY)
    return Column(values_N, tuple(known))
