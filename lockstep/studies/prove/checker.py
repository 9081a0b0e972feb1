"""Faults of the checker itself: comparisons that are wrong in the usual ways, each of which the
cases must expose.
"""

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
from lockstep.studies.prove.cases import CASES, Case, Pair, written

__all__ = ["CHECKER_FAULTS", "CheckerFault", "calls_equal", "prove_checker"]

Check = Callable[[Path, Path], bool]
"""Whether a comparison calls the traces in two files equal."""

Arrays = dict[str, NDArray[Any]]
Two = tuple[Any, Any]


def calls_equal(
    a: Path, b: Path, taken_for: Callable[[Trace, Trace], tuple[Trace, Trace]] | None = None
) -> bool:
    """The right comparison.

    Args:
        a: one trace's file.
        b: the other's.
        taken_for: what a wrong comparison makes of the two before it compares them.

    Raises:
        InputError: traces that it refuses to compare.
    """
    traces = Trace.load_unchecked(a), Trace.load_unchecked(b)
    if taken_for:
        traces = taken_for(*traces)
    return compare(*traces, bounds_of(*traces) or {}).verdict != "diverged"


@dataclass(frozen=True)
class CheckerFault:
    """A comparison with something wrong in it."""

    key: str
    text: str
    check: Check


def prove_checker() -> dict[str, tuple[str, ...]]:
    """Key of a checker fault -> the texts of the cases that expose it; "" -> those that the right
    comparison gets wrong."""
    checks: dict[str, Check] = {"": calls_equal} | {
        fault.key: fault.check for fault in CHECKER_FAULTS
    }
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [(case, written(case, Path(scratch) / str(i))) for i, case in enumerate(CASES)]
        return {
            key: tuple(
                case.text for case, pair in pairs if _answer(check, case, pair) != case.are_equal
            )
            for key, check in checks.items()
        }


def _answer(check: Check, case: Case, pair: Pair) -> bool:
    """Whether the check calls the pair equal; what it refuses it does not."""
    if case.rewritten:
        pair.b.write_bytes(pair.before)
        check(pair.a, pair.b)
    pair.b.write_bytes(pair.after)
    try:
        return check(pair.a, pair.b)
    except InputError:
        return False


def _taking(taken_for: Callable[[Trace, Trace], tuple[Trace, Trace]]) -> Check:
    return lambda a, b: calls_equal(a, b, taken_for)


def _seeing(arrays_of: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]) -> Check:
    """Arrays taken for others; bounds stay."""

    def taken_for(a: Trace, b: Trace) -> tuple[Trace, Trace]:
        kept = [
            {name: x for name, x in trace.arrays.items() if name.startswith("bounds/")}
            for trace in (a, b)
        ]
        rest = [
            {name: x for name, x in trace.arrays.items() if not name.startswith("bounds/")}
            for trace in (a, b)
        ]
        seen = arrays_of(*rest)
        one, two = (replace(t, arrays=kept | arrays) for t, kept, arrays in zip((a, b), kept, seen))
        return one, two

    return _taking(taken_for)


def _each(change: Callable[[Any, Any], Two]) -> Check:
    """Every array that both have, where the shapes are the same, taken for another."""

    def arrays_of(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
        same = [name for name in a if name in b and a[name].shape == b[name].shape]
        changed = {
            name: change(a[name].astype(np.float64), b[name].astype(np.float64)) for name in same
        }
        return a | {name: two[0] for name, two in changed.items()}, b | {
            name: two[1] for name, two in changed.items()
        }

    return _seeing(arrays_of)


def _alike(change: Callable[[Any], Any]) -> Check:
    return _each(lambda a, b: (change(a), change(b)))


def _hiding(hidden: Callable[[Any, Any], Any]) -> Check:
    """Elements where `hidden` are not seen to differ."""
    return _each(lambda a, b: (a, np.where(hidden(a, b), a, b)))


def _blind_to(hidden: Callable[[str, list[str]], bool]) -> Check:
    """Arrays whose name, among all names, is `hidden` are not seen to differ."""

    def arrays_of(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
        return a, {
            name: a[name] if name in a and hidden(name, list(b)) else array
            for name, array in b.items()
        }

    return _seeing(arrays_of)


def _with(target: str, value: Any) -> Check:
    """The right comparison with a name of the package put to something else."""

    def check(a: Path, b: Path) -> bool:
        with patch(target, value):
            return calls_equal(a, b)

    return check


def _nowhere_bounded(a: Trace, b: Trace) -> tuple[Trace, Trace]:
    names = [name for name in b.arrays if not name.startswith("bounds/")]
    return a, replace(b, arrays=b.arrays | {f"bounds/{name}": np.array(np.inf) for name in names})


def _with_names_in_common_only(a: Path, b: Path) -> bool:
    traces = Trace.load_unchecked(a), Trace.load_unchecked(b)
    return calls_equal(a, b) if traces[0].arrays.keys() & traces[1].arrays.keys() else True


def _unless_refused(a: Path, b: Path) -> bool:
    try:
        return calls_equal(a, b)
    except InputError:
        return True


def _as_far_as_both_go(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
    lengths = {
        name: min(len(a[name]), len(b[name])) for name in a.keys() & b.keys() if a[name].ndim
    }
    one, two = (
        {n: x[: lengths[n]] if n in lengths else x for n, x in arrays.items()} for arrays in (a, b)
    )
    return one, two


def _broadcast(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
    """Where shapes differ the smaller array is repeated; a difference of repeated ones has been
    seen to be 0.
    """
    other = {
        n for n in a.keys() & b.keys() if a[n].shape != b[n].shape and a[n].ndim == b[n].ndim > 1
    }
    return a, b | {
        name: np.broadcast_to(a[name], np.broadcast_shapes(a[name].shape, b[name].shape))
        for name in other
    }


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
    CheckerFault("shorter-length", "the longer of two series is cut", _seeing(_as_far_as_both_go)),
    CheckerFault("broadcast", "shapes that differ are broadcast", _seeing(_broadcast)),
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
        _each(lambda a, b: (a, np.concatenate([a[:-1], b[-1:]]) if b.ndim == 1 else b)),
    ),
    CheckerFault(
        "first-update-only",
        "of a series only the first value is judged",
        _each(lambda a, b: (a, np.concatenate([b[:1], a[1:]]) if b.ndim == 1 else b)),
    ),
    CheckerFault(
        "means", "means of tensors are judged", _alike(lambda x: np.full_like(x, x.mean()))
    ),
    CheckerFault(
        "signed-sum",
        "differences are summed with their signs",
        _each(lambda a, b: (np.zeros_like(a), np.full_like(a, (a - b).sum()))),
    ),
    CheckerFault(
        "norms", "norms of tensors are judged", _alike(lambda x: np.full_like(x, np.linalg.norm(x)))
    ),
    CheckerFault(
        "sorted",
        "sorted values are judged",
        _alike(lambda x: np.sort(x, axis=None).reshape(x.shape)),
    ),
    CheckerFault("sizes", "absolute values are judged", _alike(np.abs)),
    CheckerFault(
        "one-sided", "a difference counts only where it is positive", _hiding(lambda a, b: b < a)
    ),
    CheckerFault(
        "any-for-all",
        "a tensor passes where any element does",
        _hiding(lambda a, b: (a == b).any() | np.zeros_like(a, bool)),
    ),
    CheckerFault(
        "nan-passes",
        "a comparison with NaN finds no difference",
        _hiding(lambda a, b: np.isnan(a) | np.isnan(b)),
    ),
    CheckerFault(
        "nan-hides",
        "a tensor with a NaN on both sides passes",
        _hiding(lambda a, b: (np.isnan(a) & np.isnan(b)).any() | np.zeros_like(a, bool)),
    ),
    CheckerFault(
        "infinite-passes",
        "infinity is within any tolerance",
        _hiding(lambda a, b: np.isinf(a) | np.isinf(b)),
    ),
    CheckerFault(
        "loose", "a relative tolerance of 1e-3", _with("lockstep.diagnose.compare.SEMANTICS", 1e-3)
    ),
    CheckerFault(
        "absolute",
        "a tolerance of 1e-8, not relative to the values",
        _hiding(lambda a, b: np.abs(a - b) <= 1e-8),
    ),
    CheckerFault(
        "in-float32", "values are rounded to float32 first", _alike(lambda x: x.astype(np.float32))
    ),
    CheckerFault("unbounded", "all bounds are infinite", _taking(_nowhere_bounded)),
)
"""In the order in which a comparison does its work."""
