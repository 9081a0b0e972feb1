"""Oddities of a table that can be trained on: columns that are no features, marks in place of
numbers."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.table import counted

__all__ = ["odd_columns"]

FEWEST = 20
"""Rows from which on a pattern is none by chance."""

IDENTIFIER = re.compile(
    r"(^|[^a-z])(id|uid|uuid|guid|idx|index|key|row|nr|no|serial)$", re.IGNORECASE
)
CAMEL_IDENTIFIER = re.compile(r"[a-z](Id|ID|Index|Key)$")
SENTINELS = (-99.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0)


def odd_columns(
    x_ND: NDArray[np.float64], categories: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    """A warning of each feature that looks like an index, an identifier or a copy, or as if it held
    a mark of missing values.

    Args:
        x_ND: the features (N, D), NaN where one is missing, categories by their positions.
        categories: by the columns' names; () for a column of numbers.
    """
    first_of: dict[tuple[float, ...], list[tuple[str, NDArray[np.float64]]]] = {}
    for x_N, (name, known) in zip(x_ND.T, categories.items()):
        values_N = np.ascontiguousarray(x_N)
        filled_N = values_N[~np.isnan(values_N)] if np.isnan(values_N.sum()) else values_N
        if len(filled_N) < FEWEST:
            continue
        if known:
            if len(known) > len(filled_N) // 2:
                yield (
                    f"column {name!r} has {len(known)} categories in {len(filled_N)} rows: "
                    "an identifier, or free "
                    "text? data.drop leaves it out"
                )
            continue
        least, most = float(filled_N.min()), float(filled_N.max())
        kind = _identifier(name, filled_N, least, most)
        if kind:
            yield f"column {name!r} {kind}: an index is no feature; data.drop leaves it out"
        yield from _marks(name, filled_N, least, most)
        alike = first_of.setdefault((least, most, *filled_N[:8].tolist()), [])
        copied = [
            other for other, others_N in alike if np.array_equal(values_N, others_N, equal_nan=True)
        ]
        if copied and least < most:
            yield f"columns {copied[0]!r} and {name!r} are equal"
        else:
            alike.append((name, x_N))


def _identifier(name: str, filled_N: NDArray[np.float64], least: float, most: float) -> str:
    """The word for whole numbers that are an index or an identifier, or ""."""
    first_N = filled_N[:FEWEST]
    if (first_N != np.trunc(first_N)).any() or (filled_N != np.trunc(filled_N)).any():
        return ""
    steps_N = np.diff(filled_N)
    if (steps_N == 1).all():
        return f"counts the rows, from {least:g}"
    if (steps_N > 0).all():
        return f"rises with every row, from {least:g} to {most:g}"
    contiguous = most - least == len(filled_N) - 1
    named = not name or IDENTIFIER.search(name) or CAMEL_IDENTIFIER.search(name)
    if (contiguous or named) and len(np.unique(filled_N)) == len(filled_N):
        return "has another whole number in every row"
    return ""


def _marks(name: str, filled_N: NDArray[np.float64], least: float, most: float) -> Iterator[str]:
    """A warning of a number like -999 that lies farther from all others than these lie from one
    another."""
    for mark in (least, most):
        if mark not in SENTINELS or least == most:
            continue
        others_N = filled_N[filled_N != mark]
        distance = np.abs(others_N - mark).min()
        if distance > np.ptp(others_N):
            count = len(filled_N) - len(others_N)
            yield (
                f"column {name!r} holds {mark:g} in {counted(count, 'row')}, far from all "
                "else: a missing "
                f'value? data.missing_marks = ["{mark:g}"] says so'
            )
