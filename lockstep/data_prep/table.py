"""Rows as they were read."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table", "nearest"]


@dataclass(frozen=True)
class Table:
    """Rows as they were read: features (N, D) float64, classes (N,) int64 from 0, and their names; or a number to
    predict (N,) float64, and no classes. `target` is the name of what is predicted."""

    x_ND: NDArray[np.float64]
    y_N: NDArray[Any]
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    target: str = "class"


def nearest(name: str, known: Sequence[str], what: str = "classes") -> str:
    """`; did you mean X?` for a near miss, else the names that there are."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; {what}: {', '.join(map(repr, known[:8]))}"
