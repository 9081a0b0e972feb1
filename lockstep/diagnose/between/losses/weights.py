"""How the losses of places become one number: which places count, and with what weight.

Every reduction is a sum over rows r of a weight times the summed loss of the row's places. The
weights follow from how many places of each row count.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.losses.places import Places
from lockstep.oracle.arithmetic import Array

__all__ = [
    "Mask",
    "Reduction",
    "counted",
    "declared_counts",
    "masks_of",
    "reductions_of",
    "weights",
]

MOST_LABELS = 32
"""Labels, the commonest first, of which each may be the padding."""
FULL_SEARCH = 64
"""Rows up to which micro-batches of every size are tried."""

Flags = NDArray[np.bool_]


class Mask(NamedTuple):
    """Which places are left out beside those without a label.

    `kind` is "" for none, "label" for those with the label `value`, "token" for those that are fed
    it, and "array" for those where the batch's array `value` is 0.
    """

    kind: str = ""
    value: Any = None


class Reduction(NamedTuple):
    """A way to weigh rows: a `kind` of `weights`, and the rows of a micro-batch where it has one.

    `parts` is the number of micro-batches.
    """

    kind: str
    size: int = 0
    parts: int = 1


def masks_of(places: Places, arrays: Mapping[str, NDArray[Any]]) -> Iterator[Mask]:
    """The masks that may have been applied, none first.

    Args:
        places: of the first update.
        arrays: of the batch.
    """
    yield Mask()
    shape = places.counts.shape
    for name, array in arrays.items():
        is_mask = array.ndim == 2 and len(array) == shape[0] and array.shape[1] >= shape[1] > 1
        if is_mask and set(np.unique(array).tolist()) == {0, 1}:
            yield Mask("array", name)
    for kind, values in (("label", places.labels), ("token", places.tokens)):
        if values is None or (kind == "token" and shape[1] == 1):
            continue
        known, counts = np.unique(values[places.counts], return_counts=True)
        if len(known) < 2:
            continue
        ordered = known[np.argsort(-counts, kind="stable")][:MOST_LABELS].tolist()
        ends = [int(known[0]), int(known[-1])]
        for value in sorted(dict.fromkeys([*ordered, *ends])):
            yield Mask(kind, int(value))


def counted(places: Places, mask: Mask, arrays: Mapping[str, NDArray[Any]]) -> Flags | None:
    """The places that count under a mask (rows, places); None where it cannot be applied."""
    if not mask.kind:
        return places.counts
    if mask.kind == "array":
        array = arrays.get(mask.value)
        if array is None or array.ndim != 2 or len(array) != len(places.counts):
            return None
        # where labels are ahead of the outputs, so is their mask
        keep = array[:, -places.used :] != 0
        return places.counts & keep if keep.shape == places.counts.shape else None
    values = places.labels if mask.kind == "label" else places.tokens
    if values is None:
        return None
    return np.asarray(places.counts & (values != mask.value))


def declared_counts(settings: Mapping[str, Any]) -> list[int]:
    """The whole numbers above 1 that a loop declared, which may be counts of micro-batches."""
    counts: list[int] = []
    for value in settings.values():
        if isinstance(value, Mapping):
            counts += declared_counts(value)
        elif type(value) is int and 1 < value <= 2**16:
            counts.append(value)
    return list(dict.fromkeys(counts))


def reductions_of(
    rows: int, places: int, declared: list[int], *, is_plain: bool = True
) -> Iterator[Reduction]:
    """The reductions of so many rows and places of a row, the plainest first.

    Args:
        rows: of the batch.
        places: of a row.
        declared: the whole numbers that the loop declared.
        is_plain: whether micro-batches may be of any size; else of a declared one, or of one that
            divides the rows.
    """
    yield Reduction("mean")
    sizes = _sizes(rows, declared, is_plain)
    parts_declared = [size for size in sizes if -(-rows // size) in declared or size in declared]
    for size in parts_declared:
        yield from _of_parts(rows, size)
    yield Reduction("sum")
    if places > 1:
        yield Reduction("over rows")
        yield Reduction("row means")
        yield Reduction("sum of row means")
    yield Reduction("over all places")
    for size in sizes:
        if size not in parts_declared:
            yield from _of_parts(rows, size)


def _of_parts(rows: int, size: int) -> Iterator[Reduction]:
    parts = -(-rows // size)
    for kind in (
        "mean of means",
        "sum of means",
        "mean of sums",
        "mean over parts",
        "last",
        "first",
    ):
        yield Reduction(kind, size, parts)


def _sizes(rows: int, declared: list[int], is_plain: bool) -> list[int]:
    """The rows that a micro-batch may have, more than none and fewer than all."""
    sizes = [-(-rows // count) for count in declared if 1 < count <= rows]
    sizes += [size for size in declared if size < rows]
    every = range(rows - 1, 0, -1)
    sizes += [size for size in every if (is_plain and rows <= FULL_SEARCH) or rows % size == 0]
    return [size for size in dict.fromkeys(sizes) if 0 < size < rows]


def weights(reduction: Reduction, counts: Flags) -> Array:
    """The weight of each row, (rows,); 0 for a row of which nothing counts.

    Args:
        reduction: how rows are weighed.
        counts: (rows, places), the places that count.
    """
    rows, places = counts.shape
    of_row = counts.sum(axis=1).astype(np.float64)
    total = of_row.sum()
    ones: Array = np.ones(rows)
    kind, size, parts = reduction
    if kind == "mean":
        return np.asarray(ones / total)
    if kind == "sum":
        return ones
    if kind == "over rows":
        return np.asarray(ones / rows)
    if kind == "over all places":
        return np.asarray(ones / (rows * places))
    if kind in ("row means", "sum of row means"):
        shares = 1 / np.where(of_row > 0, of_row, np.inf)
        return np.asarray(shares / rows if kind == "row means" else shares)
    if kind == "mean over parts":
        return np.asarray(ones / total / parts)
    if kind == "mean of sums":
        return np.asarray(ones / parts)
    begin = np.arange(0, rows, size)
    of_part = np.add.reduceat(of_row, begin)
    shares = np.repeat(1 / of_part, size)[:rows]  # infinite where a part has nothing to divide by
    if kind == "mean of means":
        return np.asarray(shares / parts)
    if kind == "sum of means":
        return shares
    place = 0 if kind == "first" else begin[-1]
    inside = (np.arange(rows) >= place) & (np.arange(rows) < place + size)
    return np.where(inside, shares, 0.0)
