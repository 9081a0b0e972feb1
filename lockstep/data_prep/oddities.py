"""Oddities of a table that can be trained on: columns that are no features, marks for numbers."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.table import counted

__all__ = ["odd_columns"]

FEWEST = 20
"""Rows that a column must have before a pattern in it is not chance."""

IDENTIFIER = re.compile(
    r"(^|[^a-z])(id|uid|uuid|guid|idx|index|key|row|nr|no|serial)$", re.IGNORECASE
)
CAMEL_IDENTIFIER = re.compile(r"[a-z](Id|ID|Index|Key)$")
MARKS = (-99.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0)
"""Numbers that often stand for a missing value."""


def odd_columns(
    x_ND: NDArray[np.float64], categories: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    """A warning of each feature that looks like an index, an identifier or a copy, or holds a mark.

    Args:
        x_ND: the features (N, D), NaN where one is missing, categories by their positions.
        categories: a column's name -> its categories, () for numbers.
    """
    alike_of: dict[tuple[float, ...], list[tuple[str, NDArray[np.float64]]]] = {}
    for x_N, (name, known) in zip(x_ND.T, categories.items()):
        values_N = np.ascontiguousarray(x_N)
        filled_N = values_N[~np.isnan(values_N)] if np.isnan(values_N.sum()) else values_N
        if len(filled_N) < FEWEST:
            continue
        if known:
            if len(known) > len(filled_N) // 2:
                yield (
                    f"column {name!r} has {len(known)} categories in {len(filled_N)} rows: an "
                    "identifier, or free text? data.drop leaves it out"
                )
            continue
        least = float(filled_N.min())
        most = float(filled_N.max())
        pattern = _identifier(name, filled_N, least, most)
        if pattern:
            yield f"column {name!r} {pattern}: an index is no feature; data.drop leaves it out"
        yield from _marks(name, filled_N, least, most)
        # comparing columns of the same ends and first values alone saves time
        alike = alike_of.setdefault((least, most, *filled_N[:8].tolist()), [])
        equal = [
            other for other, other_N in alike if np.array_equal(values_N, other_N, equal_nan=True)
        ]
        if equal and least < most:
            yield f"columns {equal[0]!r} and {name!r} are equal"
        else:
            alike.append((name, x_N))


def _identifier(name: str, filled_N: NDArray[np.float64], least: float, most: float) -> str:
    """How whole numbers look like an index or an identifier, in words, or ""."""
    if not _are_whole(filled_N[:FEWEST]) or not _are_whole(filled_N):  # the first few decide most
        return ""
    steps_N = np.diff(filled_N)
    if (steps_N == 1).all():
        return f"counts the rows, from {least:g}"
    if (steps_N > 0).all():
        return f"rises with every row, from {least:g} to {most:g}"
    is_contiguous = most - least == len(filled_N) - 1
    is_named_so = not name or IDENTIFIER.search(name) or CAMEL_IDENTIFIER.search(name)
    if (is_contiguous or is_named_so) and len(np.unique(filled_N)) == len(filled_N):
        return "has another whole number in every row"
    return ""


def _are_whole(values_N: NDArray[np.float64]) -> bool:
    return bool((values_N == np.trunc(values_N)).all())


def _marks(name: str, filled_N: NDArray[np.float64], least: float, most: float) -> Iterator[str]:
    """A warning of a number like -999 that lies farther from the others than they lie apart."""
    for mark in (least, most):
        if mark not in MARKS or least == most:
            continue
        others_N = filled_N[filled_N != mark]
        distance = np.abs(others_N - mark).min()
        if distance > np.ptp(others_N):
            count = len(filled_N) - len(others_N)
            yield (
                f"column {name!r} holds {mark:g} in {counted(count, 'row')}, far from all else: a "
                f'missing value? data.missing_marks = ["{mark:g}"] says so'
            )
