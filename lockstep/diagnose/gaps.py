"""Two arrays of two traces held against one another: how far each element is apart, over how far
rounding may carry it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.loops import is_loop
from lockstep.errors import InputError
from lockstep.records.trace import Trace

__all__ = ["SEMANTICS", "TABLES", "Bounds", "Floats", "Gap", "Limit", "gap_of", "limit_of"]

SEMANTICS = 1e-12
"""Largest relative difference between two float64 runs of one meaning. It is relative to a tensor's
largest value, or to a scalar's own at its update. Right runs differ by some 1e-14 after hundreds of
updates; the nearest of the wrong ones tried, a rate rounded to float32, differs by 2.5e-8
(docs/equality.md)."""

SERIES_WORDS = {
    "loss": "the loss",
    "grad_norm": "the gradient's norm",
    "update_norm": "the update's norm",
}
TABLES = ("statistics", "sketches")
"""First part of the names of arrays with a row for each update."""
FED = ("batch", "forward")
"""Families in which a value that is not finite may be meant: a missing value, a masked score."""

Values = NDArray[Any]
Floats = NDArray[np.float64]

Bounds = Mapping[str, Floats]
"""Name of an array -> absolute bounds on how far rounding may carry it. A bound that is not finite
bounds nothing."""


class Limit(NamedTuple):
    """Where judging ends: the first update that was not judged, counted from 0 (-1: before
    training), and why.
    """

    update: int
    reason: str


class Gap(NamedTuple):
    """Two arrays held against one another.

    `begin` is the update, or epoch, of their first row. All arrays have one shape: both sides in
    float64, their distance, the bound on it, the distance over the bound, and where nothing is
    judged.
    """

    begin: int
    a: Floats
    b: Floats
    distance: Floats
    bound: Floats
    ratio: Floats
    unjudged: NDArray[np.bool_]


def gap_of(a: Trace, b: Trace, name: str, bounds: Bounds) -> Gap:
    """How far an array that both traces hold is apart, element by element.

    Raises:
        InputError: the shapes differ in more than the rows of a batch.
    """
    begin, values_a, values_b = _common(a, b, name)
    if "/batch/" in name or "/forward/" in name:
        values_a, values_b = _of_as_many_rows(values_a, values_b)
    if values_a.shape != values_b.shape:
        raise InputError(f"{name}: shapes differ, {values_a.shape} and {values_b.shape}")
    bound: Values = np.zeros(())
    if not _must_be_equal(a, name, bounds):
        bound = _bound(a, b, name, bounds, begin, values_b)
    elif values_a.dtype.kind == values_b.dtype.kind == "f":
        # an integer or a flag would lose its value
        lower = min(values_a.dtype, values_b.dtype, key=lambda dtype: dtype.itemsize)
        values_a = values_a.astype(lower)
        values_b = values_b.astype(lower)
    wide_a = values_a.astype(np.float64)
    wide_b = values_b.astype(np.float64)
    with np.errstate(all="ignore"):
        distance = np.abs(wide_a - wide_b)
        same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
        distance = np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
        unjudged = ~same & ~np.isfinite(bound)
        if not _may_be_infinite(a, name):
            opposite = wide_a == -wide_b  # infinities of either sign
            unjudged |= ~np.isfinite(wide_a) & ~np.isfinite(wide_b) & ~opposite
        if is_loop(a) and _has_size(name):
            size = np.abs(wide_a[np.isfinite(wide_a)]).max(initial=0.0)
            unjudged |= ~same & (distance <= bound) & (bound >= size) & np.isfinite(size)
        ratio = np.where(same | unjudged, 0.0, distance / bound)
    distance = np.where(unjudged, 0.0, distance)
    bound = np.broadcast_to(bound, distance.shape)
    return Gap(begin, wide_a, wide_b, distance, bound, ratio, unjudged)


def _must_be_equal(trace: Trace, name: str, bounds: Bounds) -> bool:
    """Whether an array must be the same bits: learning rates, initial parameters and batches; of a
    loop only those without a bound.
    """
    first = ("parameters/0/", "average/0/", "hashes/0/")
    is_given = name == "updates/lr" or name.startswith(first)
    if not is_given and "/batch/" not in name:
        return False
    return not (is_loop(trace) and name in bounds)


def _bound(a: Trace, b: Trace, name: str, bounds: Bounds, begin: int, values: Values) -> Values:
    """The bound on the distance of both sides, from the update or epoch `begin` on; `values` are
    one side's.
    """
    bound = np.asarray(bounds.get(name, np.zeros(())))
    if bound.ndim:
        bound = bound[begin:]
    sides = sum(trace.backend != "oracle" for trace in (a, b))
    with np.errstate(invalid="ignore"):  # of two oracles' traces, where the bound is infinite
        bound = bound * sides
    dtype = a.header.get("recipe", {}).get("training", a.header)["dtype"]
    if dtype == "float64" and not name.endswith("accuracy"):
        bound = np.maximum(bound, SEMANTICS * _sizes(name, values))
    return bound


def _sizes(name: str, values: Values) -> Floats:
    """The sizes to which a float64 difference is relative: a tensor's largest value, each scalar of
    a series, and for statistics the tensor's largest value at each update. A value that is not
    finite counts as 0.
    """
    size = np.where(np.isfinite(values), np.abs(values.astype(np.float64)), 0.0)
    kind = name.partition("/")[0]
    if name.endswith("_r2"):  # 1 - a share: near 0 it keeps the rounding of what cancels
        return np.maximum(size, np.where(np.isfinite(values), np.abs(1 - values), 0.0))
    if kind in ("updates", "epochs"):
        return size
    if kind in TABLES:
        return np.asarray(size.max(axis=-1, keepdims=True, initial=0.0))
    return np.asarray(size.max(initial=0.0))


def _may_be_infinite(trace: Trace, name: str) -> bool:
    """Whether a value that is not finite may be meant, and is then compared as any other. In a
    loop's statistics NaN stands for an update that has none.
    """
    kind, _, rest = name.partition("/")
    if kind in TABLES:
        return is_loop(trace) or rest.startswith(FED)
    return kind == "detail" and rest.split("/")[1] in FED


def _has_size(name: str) -> bool:
    """Whether a bound as wide as an array's largest value leaves nothing to judge. Gradients may be
    0 but for rounding, and those of other tensors tell then.
    """
    kind, _, rest = name.partition("/")
    if kind == "updates":
        return rest in SERIES_WORDS
    return kind != "sketches" and "/forward/" in name


def limit_of(trace: Trace, name: str, gap: Gap, bounds: Bounds) -> Limit | None:
    """The first update of which an array was not judged; None where all of it was."""
    if not gap.unjudged.any():
        return None
    kind, _, rest = name.partition("/")
    unjudged = gap.unjudged
    bound = gap.bound
    values = gap.a
    if kind in ("updates", *TABLES, "epochs"):
        row = int(unjudged.reshape(len(unjudged), -1).any(axis=1).argmax())
        unjudged = unjudged[row]
        bound = bound[row]
        values = values[row]
        length = trace.header["updates_per_epoch"] if kind == "epochs" else 1
        update = (gap.begin + row + 1) * length - 1
    else:
        update = int(rest.split("/")[0]) - (kind != "detail")
    if np.isfinite(bound[unjudged]).all():
        noun = SERIES_WORDS.get(rest, rest.rpartition("/")[2])
        if np.isfinite(values[unjudged]).any():
            return Limit(update, f"the bound on rounding is as wide as {noun} is large")
        return Limit(update, f"{noun} is finite on neither side")
    return Limit(update, getattr(bounds, "reason", "") or "no bound on rounding is finite")


def _of_as_many_rows(a: Values, b: Values) -> tuple[Values, Values]:
    """Both arrays, the shorter one with rows of NaN at its end; as they are where they differ in
    more than their rows.
    """
    if a.ndim != b.ndim or a.shape == b.shape or a.shape[1:] != b.shape[1:]:
        return a, b
    rows = max(len(a), len(b))
    return _filled_up(a, rows), _filled_up(b, rows)


def _filled_up(array: Values, rows: int) -> Values:
    """The array with rows of NaN at its end."""
    # an integer or a flag cannot be NaN
    wide = array.astype(np.result_type(array, np.float16))
    missing = np.full((rows - len(wide), *wide.shape[1:]), np.nan, wide.dtype)
    return np.concatenate([wide, missing])


def _common(a: Trace, b: Trace, name: str) -> tuple[int, Values, Values]:
    """The first update, or epoch, of which both traces hold the array, and both from there on."""
    kind = name.partition("/")[0]
    if kind in TABLES:
        first_a, first_b = (trace.header.get("statistics") or 0 for trace in (a, b))
    elif kind in ("updates", "epochs"):
        length = a.header["updates_per_epoch"] if kind == "epochs" else 1
        first_a = a.first_update // length
        first_b = b.first_update // length
    else:
        return 0, a.arrays[name], b.arrays[name]
    begin = max(first_a, first_b)
    return begin, a.arrays[name][begin - first_a :], b.arrays[name][begin - first_b :]
