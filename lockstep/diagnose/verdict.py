"""The verdict on a whole run: from the bits that went in to the rounding of what came out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lockstep.backends import BACKENDS
from lockstep.diagnose.compare import STAGES, Bounds, Comparison, Limit, bounds_of, compare
from lockstep.diagnose.exact import DeriveBounds, compare_exactly
from lockstep.diagnose.sentences import (
    describe_difference,
    describe_limit,
    failure_sentence,
    verdict_sentence,
)
from lockstep.errors import InputError
from lockstep.numbers import factor
from lockstep.oracle.rounding import AMPLIFIED
from lockstep.records.trace import Trace

__all__ = [
    "EXIT_STATUS",
    "Check",
    "Failure",
    "Verdict",
    "describe_difference",
    "describe_limit",
    "judge",
    "settles",
]

EXIT_STATUS = {"identical": 0, "rounding": 0, "diverged": 1, "inconclusive": 3}
"""Verdict -> what a command exits with."""
GRAVEST_FIRST = ("diverged", "inconclusive", "rounding", "identical")
SERIES = {"lr": "updates/lr", "loss": "updates/loss", "parameters": "parameters/"}
"""Key of `Verdict.max_difference` -> prefix of the arrays that it is taken over."""

Traces = Mapping[str, Trace]
"""torch, jax or oracle -> its trace."""
Comparisons = Mapping[str, Comparison]
"""Title of a comparison, such as "torch against oracle" -> the comparison."""
Forms = Mapping[str, Comparisons]
"""Form of the training -> its comparisons. A form is "semantics" (float64 by the plain engine),
"fast" (float64 by the fast engine) or "traces" (the recipe's dtype)."""


@dataclass(frozen=True)
class Check:
    """One thing that was judged, and the outcome. It passes where all of it was judged and none of
    it is wrong; `is_limited` says that nothing is wrong but not all was judged."""

    name: str
    passed: bool
    detail: str
    is_limited: bool = False

    @property
    def outcome(self) -> str:
        """pass, inconclusive or fail."""
        if self.passed:
            return "pass"
        return "inconclusive" if self.is_limited else "fail"


class Failure(NamedTuple):
    """What failed.

    `form` is "traces", "semantics" or "fast". `off` has the twins that part from the oracle; it is
    empty where the twins part from one another only. `alike` says whether the twins agree with one
    another. `float64` is where judging in float64 ends, None where it was judged throughout.
    """

    form: str
    off: tuple[str, ...]
    alike: bool
    float64: Limit | None

    @property
    def sentence(self) -> str:
        """The failure as a headline."""
        return failure_sentence(self.form, self.off, self.alike, self.float64)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a run.

    A training that amplifies rounding until bounds say nothing is inconclusive by float32 alone.
    Where float64 was judged at every update, it shows that both mean the same, and the verdict is
    rounding.

    `word` is identical, rounding, diverged or inconclusive. `max_difference` is absolute, torch
    against jax, with the keys lr, loss and parameters. `limit` is where judging ends, None where
    everything was judged. `failure` is what diverged, None where nothing did.
    """

    word: str
    checks: tuple[Check, ...]
    max_difference: dict[str, float]
    limit: Limit | None = None
    failure: Failure | None = None

    @property
    def sentence(self) -> str:
        """The verdict as a headline."""
        if self.failure is not None:
            return self.failure.sentence
        return verdict_sentence(self.word, self.limit)


def judge(
    traces: Traces,
    semantics: Traces,
    fast: Traces | None = None,
    *,
    derive_bounds: DeriveBounds | None = None,
) -> Verdict:
    """Judge a run.

    Args:
        traces: torch, jax and oracle, in the recipe's dtype.
        semantics: the same in float64, by the plain engine.
        fast: torch and jax in float64 by the fast engine, where that trained `traces`.
        derive_bounds: gives bounds on rounding in float64, and is called where 1e-12 is not enough;
            None: the float64 oracle's own, if it has any.

    Raises:
        InputError: an oracle's trace without rounding bounds, or traces that cannot be compared.
    """
    bounds = bounds_of(traces["oracle"])
    if bounds is None:
        raise InputError("the oracle's trace has no rounding bounds")
    fast = fast or {}
    derive = derive_bounds or (lambda: bounds_of(semantics["oracle"]) or {})
    compared: Forms = {
        "semantics": _against_oracle(semantics, semantics["oracle"], derive),
        "fast": _against_oracle(fast, semantics["oracle"], derive),
        "traces": _against_one_another(traces, bounds),
    }
    limits = {form: _first_limit(comparisons) for form, comparisons in compared.items()}
    is_settled = settles(limits["traces"], limits["semantics"], limits["fast"])

    def compare_twins(form: str) -> Comparison:
        if form == "traces":
            return compared["traces"]["torch against jax"]
        exact = semantics if form == "semantics" else fast
        return compare_exactly(exact["torch"], exact["jax"], derive)

    checks = [
        *_exact_checks(traces, compared),
        _bounded_check(f"same semantics, in float64{_engines(semantics)}", compared["semantics"]),
    ]
    if fast:
        title = f"same semantics, in float64{_engines(fast)}"
        checks.append(_bounded_check(title, compared["fast"]))
    title = f"the rest is rounding, in {_precision(traces)}{_engines(traces)}"
    checks.append(_bounded_check(title, compared["traces"], is_settled=is_settled))
    return Verdict(
        word=_word(compared, is_settled=is_settled),
        checks=tuple(checks),
        max_difference={name: _largest(traces, prefix) for name, prefix in SERIES.items()},
        limit=_earliest(*limits.values()),
        failure=_failure(compared, compare_twins, _earliest(limits["semantics"], limits["fast"])),
    )


def settles(limit: Limit | None, *of_float64: Limit | None) -> bool:
    """Whether float64 settles what traces that amplify rounding leave open: it was judged at every
    update.

    Args:
        limit: of the traces in the recipe's dtype.
        of_float64: the limits of what was trained in float64 beside them.
    """
    is_amplified = limit is not None and limit.reason == AMPLIFIED
    return is_amplified and bool(of_float64) and all(other is None for other in of_float64)


def _against_oracle(traces: Traces, oracle: Trace, derive_bounds: DeriveBounds) -> Comparisons:
    """Each twin in float64 against the oracle."""
    return {
        f"{backend} against oracle": compare_exactly(trace, oracle, derive_bounds)
        for backend, trace in traces.items()
        if trace is not oracle
    }


def _against_one_another(traces: Traces, bounds: Bounds) -> Comparisons:
    """Every two of the traces."""
    return {
        f"{a} against {b}": compare(traces[a], traces[b], bounds)
        for a, b in combinations(traces, 2)
    }


def _word(compared: Forms, *, is_settled: bool) -> str:
    """The gravest verdict of all comparisons; what float64 settles is rounding."""
    words = {
        comparison.verdict
        for comparisons in compared.values()
        for comparison in comparisons.values()
    }
    if is_settled:
        words = words - {"inconclusive"} | {"rounding"}
    return next(word for word in GRAVEST_FIRST if word in words)


def _failure(
    compared: Forms, compare_twins: Callable[[str], Comparison], float64: Limit | None
) -> Failure | None:
    """The first form in which something parts: what the frameworks mean comes before how they
    round.
    """
    for form, comparisons in compared.items():
        parting = [name for name, comparison in comparisons.items() if comparison.first is not None]
        if parting:
            off = tuple(twin for twin in BACKENDS if f"{twin} against oracle" in parting)
            alike = compare_twins(form).first is None
            return Failure(form, off, alike, float64)
    return None


# ---- the checks


def _exact_checks(traces: Traces, compared: Forms) -> list[Check]:
    """What must agree bit for bit: initial parameters (with data and batches, by their hash) and
    learning rates.
    """
    everything: dict[str, Comparison] = {}
    for form, comparisons in compared.items():
        suffix = "" if form == "traces" else f", {form}"
        everything |= {f"{name}{suffix}": comparison for name, comparison in comparisons.items()}
    header = traces["torch"].header
    data = f"hash {header['data_hash'][:12]}"
    updates = f"{int(header['updates'])} updates"
    return [
        _exact_check("same data, batches and initial parameters", everything, "init", data),
        _exact_check("same learning rate, bit for bit", everything, "lr", updates),
    ]


def _exact_check(title: str, comparisons: Comparisons, stage: str, detail: str) -> Check:
    for name, comparison in comparisons.items():
        worst = comparison.worst.get(stage)
        if worst is not None and worst.difference != 0:
            return Check(title, False, f"{name}: {describe_difference(worst)}")
    return Check(title, True, detail)


def _bounded_check(title: str, comparisons: Comparisons, *, is_settled: bool = False) -> Check:
    for name, comparison in comparisons.items():
        if comparison.first is not None:
            return Check(title, False, f"{name}: {describe_difference(comparison.first)}")
    ratios = f"error / bound: {', '.join(_ratios(comparisons))}"
    limit = _first_limit(comparisons)
    if limit is None:
        return Check(title, True, ratios)
    detail = f"{describe_limit(limit)}; {ratios}"
    return Check(title, is_settled, detail, is_limited=not is_settled)


def _ratios(comparisons: Comparisons) -> list[str]:
    """The largest error over its bound of each comparison, but for the stages init and batch."""
    texts = []
    for name, comparison in comparisons.items():
        ratios = [
            comparison.worst[stage].ratio for stage in STAGES[2:] if stage in comparison.worst
        ]
        texts.append(f"{name} {factor(max(ratios), 2)}" if ratios else f"{name} not judged")
    return texts


def _engines(traces: Traces) -> str:
    """The engines that trained, in words to follow a precision; "" where the traces do not say."""
    engines = set()
    for twin in BACKENDS:
        if twin in traces:
            engines.add(traces[twin].header["environment"].get("engine", ""))
    names = sorted(engines - {""})
    if not names:
        return ""
    noun = "engine" if len(names) == 1 else "engines"
    return f", {' and '.join(names)} {noun}"


def _precision(traces: Traces) -> str:
    return traces["torch"].recipe.training.precision


# ---- limits and sizes


def _first_limit(comparisons: Comparisons) -> Limit | None:
    return _earliest(*(comparison.limit for comparison in comparisons.values()))


def _earliest(*limits: Limit | None) -> Limit | None:
    return min(filter(None, limits), key=lambda limit: limit.update, default=None)


def _largest(traces: Traces, prefix: str) -> float:
    """The largest absolute difference between torch and jax in the arrays of a prefix."""
    torch = traces["torch"].arrays
    jax = traces["jax"].arrays
    names = [name for name in torch if name.startswith(prefix)]
    with np.errstate(all="ignore"):  # a run that blew up differs by a NaN
        gaps = [np.abs(torch[name].astype(np.float64) - jax[name]).max() for name in names]
        return float(np.max(gaps))
