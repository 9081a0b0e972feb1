"""Rows as they were read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.recipe.wording import near_miss

__all__ = ["Note", "Table", "counted", "listed", "nearest"]

Note = tuple[str, str]
"""Label and value of a note on how the data were read or changed."""


@dataclass(frozen=True)
class Table:
    """Rows as they were read.

    - `x_ND` has the features, shape (N, D), float64; a missing number is NaN.
    - `y_N` has the target, shape (N,): int64 from 0 for classes, whose names are `classes`; float64
      for a number, without classes.
    - `target` is the name of the predicted column.
    - `categories` has the categories of each column, () for numbers; the features hold their
      positions.
    - `held_out` is the number of last rows that come from a hold-out file.
    - `notes` say how the file was read, and `warnings` what is odd in it.
    """

    x_ND: NDArray[np.float64]
    y_N: NDArray[Any]
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    target: str = "class"
    categories: tuple[tuple[str, ...], ...] = ()
    held_out: int = 0
    notes: tuple[Note, ...] = ()
    warnings: tuple[str, ...] = ()

    def row(self, number: int) -> list[float | str]:
        """A row's features, categories by name."""
        x_D = self.x_ND[number].tolist()
        categories = self.categories or ((),) * len(x_D)
        return [known[int(value)] if known else value for value, known in zip(x_D, categories)]


def nearest(name: str, known: Sequence[str], what: str = "classes") -> str:
    """A hint for a message: `; did you mean 'X'?` for a near miss, else the first names."""
    close = near_miss(name, known)
    if close:
        return f"; did you mean {close!r}?"
    return f"; {what}: {', '.join(map(repr, known[:8]))}"


def listed(names: Sequence[str], limit: int = 8) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(repr, names[:limit]))
    more = len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
