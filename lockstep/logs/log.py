"""A log: numbers by step, under names that logs of other programs share."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cells", "Log", "Series", "Table", "Text"]


@dataclass(frozen=True)
class Text:
    """A cell that holds no number."""

    place: int
    """The line, entry or event, counted from 1."""
    content: str


@dataclass(frozen=True)
class Cells:
    """The numbers of one column, in the order of the file; empty cells are left out."""

    places_N: NDArray[np.int64]
    """The line, entry or event of each number, counted from 1."""
    values_N: NDArray[np.float64]
    decimals: int | None = None
    """Decimals of every number where the text keeps zeros at the end: 4 for 0.1200. None where it
    does not."""
    text: Text | None = None
    """The first cell that holds no number."""


@dataclass(frozen=True)
class Table:
    """What a file holds, column by column."""

    kind: str
    """The kind of log in words: "CSV"."""
    columns: Mapping[str, Cells]
    unit: str
    """What `places_N` count: "line", "entry" or "event"."""
    notes: tuple[str, ...] = ()
    """What was done to read it, in words."""
    step: str = ""
    """The column of steps, where the kind of log has one; "" where its name tells."""


@dataclass(frozen=True)
class Series:
    """One quantity by step."""

    column: str
    """Its name in the file."""
    steps_N: NDArray[np.int64]
    """Ascending; each occurs once."""
    values_N: NDArray[np.float64]
    decimals: int | None = None
    """As in `Cells`."""


@dataclass(frozen=True)
class Log:
    """The quantities of one log."""

    path: str
    kind: str
    series: Mapping[str, Series]
    """Shared name -> series: loss, lr, grad_norm, and others by their own names."""
    columns: frozenset[str] = frozenset()
    """The names in the file, of whatever was no number too."""
    notes: tuple[str, ...] = ()
    """What was done to read it, in words."""
