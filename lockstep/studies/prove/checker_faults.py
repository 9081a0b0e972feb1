"""Faults of the checker: comparisons wrong in the usual ways, which the cases must expose."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.compare import bounds_of, compare
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from lockstep.studies.prove.known_cases import CASES, Case, Pair, written

__all__ = ["CHECKER_FAULTS", "CheckerFault", "calls_equal", "prove_checker"]

Check = Callable[[Path, Path], bool]
"""Whether a comparison calls the traces in two files equal."""

Arrays = dict[str, NDArray[Any]]
ChangeTraces = Callable[[Trace, Trace], tuple[Trace, Trace]]
"""What a wrong comparison makes of two traces before it compares them."""
ChangeArrays = Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]
ChangePair = Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]


def calls_equal(a: Path, b: Path, change: ChangeTraces | None = None) -> bool:
    """The right comparison.

    Args:
        a: the file of one trace.
        b: the file of the other.
        change: what a wrong comparison makes of the two traces first.

    Raises:
        InputError: the comparison refuses the traces.
    """
    traces = Trace.load_unchecked(a), Trace.load_unchecked(b)
    if change:
        traces = change(*traces)
    return compare(*traces, bounds_of(*traces) or {}).verdict != "diverged"


@dataclass(frozen=True)
class CheckerFault:
    """A comparison with something wrong in it."""

    key: str
    text: str
    check: Check


def prove_checker() -> dict[str, tuple[str, ...]]:
    """Key of a checker fault -> the texts of the cases that expose it.

    The key "" has the cases that the right comparison gets wrong.
    """
    checks: dict[str, Check] = {"": calls_equal}
    checks |= {fault.key: fault.check for fault in CHECKER_FAULTS}
    exposing = {}
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [(case, written(case, Path(scratch) / str(i))) for i, case in enumerate(CASES)]
        for key, check in checks.items():
            wrong = [case for case, pair in pairs if _answer(check, case, pair) != case.are_equal]
            exposing[key] = tuple(case.text for case in wrong)
    return exposing


def _answer(check: Check, case: Case, pair: Pair) -> bool:
    """Whether the check calls the pair equal. A pair that it refuses is not equal."""
    if case.rewritten:
        pair.b.write_bytes(pair.before)
        check(pair.a, pair.b)
    pair.b.write_bytes(pair.after)
    try:
        return check(pair.a, pair.b)
    except InputError:
        return False


def _with_traces(change: ChangeTraces) -> Check:
    """The right comparison of changed traces."""
    return lambda a, b: calls_equal(a, b, change)


def _with_arrays(change: ChangeArrays) -> Check:
    """The right comparison of changed arrays; bounds stay."""

    def change_traces(a: Trace, b: Trace) -> tuple[Trace, Trace]:
        bounds_a, judged_a = _split(a)
        bounds_b, judged_b = _split(b)
        changed_a, changed_b = change(judged_a, judged_b)
        return replace(a, arrays=bounds_a | changed_a), replace(b, arrays=bounds_b | changed_b)

    return _with_traces(change_traces)


def _split(trace: Trace) -> tuple[Arrays, Arrays]:
    """The bounds of a trace, and its other arrays."""
    bounds: Arrays = {}
    judged: Arrays = {}
    for name, array in trace.arrays.items():
        part = bounds if name.startswith("bounds/") else judged
        part[name] = array
    return bounds, judged


def _with_each_pair(change: ChangePair) -> Check:
    """The right comparison with every pair of arrays of one name and shape changed."""

    def change_arrays(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
        changed_a = dict(a)
        changed_b = dict(b)
        for name in a:
            if name in b and a[name].shape == b[name].shape:
                pair = change(a[name].astype(np.float64), b[name].astype(np.float64))
                changed_a[name], changed_b[name] = pair
        return changed_a, changed_b

    return _with_arrays(change_arrays)


def _with_each(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Check:
    """The right comparison with every array that both have changed."""
    return _with_each_pair(lambda a, b: (change(a), change(b)))


def _hiding(hidden: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]) -> Check:
    """A comparison that sees no difference in the elements that are `hidden`."""
    return _with_each_pair(lambda a, b: (a, np.where(hidden(a, b), a, b)))


def _blind_to(hidden: Callable[[str, list[str]], bool]) -> Check:
    """A comparison that sees no difference in the arrays whose name, among all, is `hidden`."""

    def change_arrays(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
        names = list(b)
        changed = {name: a[name] for name in names if name in a and hidden(name, names)}
        return a, b | changed

    return _with_arrays(change_arrays)


def _with(target: str, value: Any) -> Check:
    """The right comparison with a name of the package replaced by something else."""

    def check(a: Path, b: Path) -> bool:
        with patch(target, value):
            return calls_equal(a, b)

    return check


def _nowhere_bounded(a: Trace, b: Trace) -> tuple[Trace, Trace]:
    names = [name for name in b.arrays if not name.startswith("bounds/")]
    return a, replace(b, arrays=b.arrays | {f"bounds/{name}": np.array(np.inf) for name in names})


def _with_names_in_common_only(a: Path, b: Path) -> bool:
    common = Trace.load_unchecked(a).arrays.keys() & Trace.load_unchecked(b).arrays.keys()
    return calls_equal(a, b) if common else True


def _unless_refused(a: Path, b: Path) -> bool:
    try:
        return calls_equal(a, b)
    except InputError:
        return True


def _as_far_as_both_go(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
    cut_a = dict(a)
    cut_b = dict(b)
    for name in a.keys() & b.keys():
        if a[name].ndim:
            length = min(len(a[name]), len(b[name]))
            cut_a[name] = a[name][:length]
            cut_b[name] = b[name][:length]
    return cut_a, cut_b


def _broadcast(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
    """Where shapes differ, the smaller array is repeated, and the difference of repeated ones comes
    out as 0.
    """
    repeated = dict(b)
    for name in a.keys() & b.keys():
        if a[name].shape != b[name].shape and a[name].ndim == b[name].ndim > 1:
            shape = np.broadcast_shapes(a[name].shape, b[name].shape)
            repeated[name] = np.broadcast_to(a[name], shape)
    return a, repeated


def _last_value_only(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return a, np.concatenate([a[:-1], b[-1:]]) if b.ndim == 1 else b


def _first_value_only(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return a, np.concatenate([b[:1], a[1:]]) if b.ndim == 1 else b


def _signed_sum(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.zeros_like(a), np.full_like(a, (a - b).sum())


def _everywhere_if_any(elements: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.full_like(elements, elements.any())


CHECKER_FAULTS = (
    CheckerFault("itself", "a trace is compared with itself", lambda a, b: calls_equal(a, a)),
    CheckerFault("stale-file", "a file once read is not read again", cache(calls_equal)),
    CheckerFault("errors-pass", "what cannot be compared passes", _unless_refused),
    CheckerFault(
        "nothing-in-common-passes", "no name in common passes", _with_names_in_common_only
    ),
    CheckerFault(
        "other-runs",
        "runs of other data are compared",
        _with("lockstep.diagnose.compare.refuse_different_runs", lambda a, b: None),
    ),
    CheckerFault(
        "shorter-length", "the longer of two series is cut", _with_arrays(_as_far_as_both_go)
    ),
    CheckerFault("broadcast", "shapes that differ are broadcast", _with_arrays(_broadcast)),
    CheckerFault(
        "outside-the-loop",
        "only the last array is judged, after the loop",
        _blind_to(lambda name, names: name != names[-1]),
    ),
    CheckerFault(
        "first-array-only",
        "only the first array is judged",
        _blind_to(lambda name, names: name != names[0]),
    ),
    CheckerFault(
        "parameters-only",
        "only parameters are judged",
        _blind_to(lambda name, names: not name.startswith("parameters/")),
    ),
    CheckerFault(
        "series-only",
        "only the series of updates are judged",
        _blind_to(lambda name, names: not name.startswith("updates/")),
    ),
    CheckerFault(
        "last-parameters-only",
        "of the parameters only the last are judged",
        _blind_to(lambda name, names: name.startswith("parameters/") and "/6/" not in name),
    ),
    CheckerFault(
        "no-initial-parameters",
        "the initial parameters are not judged",
        _blind_to(lambda name, names: "/0/" in name),
    ),
    CheckerFault(
        "no-metrics",
        "metrics are not judged",
        _blind_to(lambda name, names: name.startswith("epochs/")),
    ),
    CheckerFault(
        "no-average",
        "the average is not judged",
        _blind_to(lambda name, names: name.startswith("average/")),
    ),
    CheckerFault(
        "no-detail",
        "detail is not judged",
        _blind_to(lambda name, names: name.startswith("detail/")),
    ),
    CheckerFault(
        "last-update-only",
        "of a series only the last value is judged",
        _with_each_pair(_last_value_only),
    ),
    CheckerFault(
        "first-update-only",
        "of a series only the first value is judged",
        _with_each_pair(_first_value_only),
    ),
    CheckerFault(
        "means", "means of tensors are judged", _with_each(lambda x: np.full_like(x, x.mean()))
    ),
    CheckerFault(
        "signed-sum",
        "differences are summed with their signs",
        _with_each_pair(_signed_sum),
    ),
    CheckerFault(
        "norms",
        "norms of tensors are judged",
        _with_each(lambda x: np.full_like(x, np.linalg.norm(x))),
    ),
    CheckerFault(
        "sorted",
        "sorted values are judged",
        _with_each(lambda x: np.sort(x, axis=None).reshape(x.shape)),
    ),
    CheckerFault("sizes", "absolute values are judged", _with_each(np.abs)),
    CheckerFault(
        "one-sided", "a difference counts only where it is positive", _hiding(lambda a, b: b < a)
    ),
    CheckerFault(
        "any-for-all",
        "a tensor passes where any element does",
        _hiding(lambda a, b: _everywhere_if_any(a == b)),
    ),
    CheckerFault(
        "nan-passes",
        "a comparison with NaN finds no difference",
        _hiding(lambda a, b: np.isnan(a) | np.isnan(b)),
    ),
    CheckerFault(
        "nan-hides",
        "a tensor with a NaN on both sides passes",
        _hiding(lambda a, b: _everywhere_if_any(np.isnan(a) & np.isnan(b))),
    ),
    CheckerFault(
        "infinite-passes",
        "infinity is within any tolerance",
        _hiding(lambda a, b: np.isinf(a) | np.isinf(b)),
    ),
    CheckerFault(
        "loose", "a relative tolerance of 1e-3", _with("lockstep.diagnose.gaps.SEMANTICS", 1e-3)
    ),
    CheckerFault(
        "absolute",
        "a tolerance of 1e-8, not relative to the values",
        _hiding(lambda a, b: np.abs(a - b) <= 1e-8),
    ),
    CheckerFault(
        "in-float32",
        "values are rounded to float32 first",
        _with_each(lambda x: x.astype(np.float32)),
    ),
    CheckerFault("unbounded", "all bounds are infinite", _with_traces(_nowhere_bounded)),
)
"""The faults, in the order in which a comparison does its work."""
