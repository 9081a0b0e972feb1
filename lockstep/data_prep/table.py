"""Rows as they were read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.recipe.wording import near_miss

__all__ = ["Note", "Table", "counted", "listed", "nearest"]

Note = tuple[str, str]
"""Label and value of something that was seen or done."""


@dataclass(frozen=True)
class Table:
    """Rows as they were read: features (N, D) float64, and classes (N,) int64 from 0 with their
    names. If a number is predicted it is (N,) float64, and there are no classes. `target` is the
    name of the predicted column.

    A missing number is NaN. `categories` has the categories of each column, () for a column of
    numbers; the features hold their positions. The last `held_out` rows are those of a hold-out
    file, 0 without one. `notes` say how the file was read, `warnings` what is odd in it.
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
    """`; did you mean X?` for a near miss, else the names that there are."""
    close = near_miss(name, known)
    return f"; did you mean {close!r}?" if close else f"; {what}: {', '.join(map(repr, known[:8]))}"


def listed(names: Sequence[str], limit: int = 8) -> str:
    """The first names, and how many more there are."""
    more = len(names) - limit
    return ", ".join(map(repr, names[:limit])) + (f" and {more} more" if more > 0 else "")


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {what}" + ("" if number == 1 else "s")
