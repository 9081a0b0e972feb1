"""The verdict on a whole run: from the bits that went in to the rounding of what came out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.compare import (
    STAGES,
    Comparison,
    Difference,
    Limit,
    bounds_of,
    compare,
)
from lockstep.diagnose.exact import DeriveBounds, compare_exactly
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

TWINS = {"torch": "PyTorch", "jax": "JAX"}
EXIT_STATUS = {"identical": 0, "rounding": 0, "diverged": 1, "inconclusive": 3}
"""Verdict -> what a command exits with."""
SENTENCES = {
    "identical": "PyTorch and JAX produced the same bits.",
    "rounding": "PyTorch and JAX do the same thing; they differ by rounding only, within the "
    "bound.",
    "diverged": "PyTorch and JAX do not do the same thing.",
    "inconclusive": "Not all of this training can be judged.",
}


@dataclass(frozen=True)
class Check:
    """One thing that was judged, and what came of it. It passes where all of it was judged and none
    of it is wrong; `is_limited` says that nothing is wrong but not all was judged."""

    name: str
    passed: bool
    detail: str
    is_limited: bool = False

    @property
    def outcome(self) -> str:
        """pass, inconclusive or fail."""
        return "pass" if self.passed else "inconclusive" if self.is_limited else "fail"


class Failure(NamedTuple):
    """What failed: `form` is "traces", "semantics" or "fast", `off` the twins that part from the
    oracle (where there is none, the twins part from one another), `alike` says whether the twins do
    the same all the same, and `float64` is where judging in float64 ends, None where all of it was
    judged."""

    form: str
    off: tuple[str, ...]
    alike: bool
    float64: Limit | None

    @property
    def sentence(self) -> str:
        """What it comes to, for a headline."""
        engines = "'s fast engine" if self.form == "fast" else ""
        if not self.off:
            return SENTENCES["diverged"]
        if self.form == "traces":
            named = " and ".join(TWINS[twin] for twin in self.off)
            strays = f"s trained here, {named} strays farther than rounding can"
            if self.float64 is None:
                return f"In float64 both do what the recipe says; a{strays}."
            return f"A{strays}; in float64, {describe_limit(self.float64)}."
        if len(self.off) == 1:
            (twin,) = self.off
            return (
                f"PyTorch and JAX do not do the same thing: {TWINS[twin]}{engines} does not do "
                "what the recipe says."
            )
        if self.alike:
            return (
                f"PyTorch{engines} and JAX{engines} do the same thing, and it is not what the "
                "recipe says."
            )
        return (
            f"PyTorch{engines} and JAX{engines} do not do the same thing, and neither does what "
            "the recipe says."
        )


@dataclass(frozen=True)
class Verdict:
    """What a run comes to.

    A training that amplifies rounding until bounds say nothing is inconclusive by float32 alone.
    Where float64 was judged at every update, it shows that both mean the same, and the verdict is
    rounding.

    `word` is identical, rounding, diverged or inconclusive; `max_difference` is absolute, torch
    against jax, with
    the keys lr, loss and parameters; `limit` is where judging ends, None where all was judged;
    `failure` is what diverged, None where nothing did."""

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
        if self.limit is None:
            return SENTENCES[self.word]
        if self.word == "rounding":
            return (
                "PyTorch and JAX do the same thing, as float64 shows at every update. As "
                "trained here they differ by "
                f"rounding, within the bound up to update {self.limit.update - 1}; from "
                f"there on {self.limit.reason}."
            )
        text = describe_limit(self.limit)
        return f"{text[0].upper()}{text[1:]}."


def judge(
    traces: Mapping[str, Trace],
    semantics: Mapping[str, Trace],
    fast: Mapping[str, Trace] | None = None,
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
    derived = derive_bounds or (lambda: bounds_of(semantics["oracle"]) or {})
    compared = {
        "semantics": _against_oracle(semantics, semantics["oracle"], derived),
        "fast": _against_oracle(fast or {}, semantics["oracle"], derived),
        "traces": {
            f"{a} against {b}": compare(traces[a], traces[b], bounds)
            for a, b in combinations(traces, 2)
        },
    }
    everything = {
        (name if form == "traces" else f"{name}, {form}"): comparison
        for form, comparisons in compared.items()
        for name, comparison in comparisons.items()
    }
    engines = {
        form: _engines(runs) for form, runs in (("semantics", semantics), ("traces", traces))
    }
    precision = traces["torch"].recipe.training.precision
    checks = [
        _exact("same data, batches and initial parameters", everything, "init", _data(traces)),
        _exact("same learning rate, bit for bit", everything, "lr", f"{_updates(traces)} updates"),
        _bounded(f"same semantics, in float64{engines['semantics']}", compared["semantics"]),
    ]
    if fast:
        checks.append(_bounded(f"same semantics, in float64{_engines(fast)}", compared["fast"]))
    limits = {form: _first_limit(comparisons) for form, comparisons in compared.items()}
    is_settled = settles(limits["traces"], limits["semantics"], limits["fast"])
    rounding = f"the rest is rounding, in {precision}{engines['traces']}"
    checks.append(_bounded(rounding, compared["traces"], is_settled=is_settled))
    verdicts = {comparison.verdict for comparison in everything.values()}
    if is_settled:
        verdicts = verdicts - {"inconclusive"} | {"rounding"}
    word = next(
        word for word in ("diverged", "inconclusive", "rounding", "identical") if word in verdicts
    )
    limit = _earliest(*limits.values())
    series = {"lr": "updates/lr", "loss": "updates/loss", "parameters": "parameters/"}
    largest = {name: _largest(traces, prefix) for name, prefix in series.items()}
    alike = {
        "semantics": lambda: compare_exactly(semantics["torch"], semantics["jax"], derived),
        "fast": lambda: compare_exactly((fast or {})["torch"], (fast or {})["jax"], derived),
        "traces": lambda: compared["traces"]["torch against jax"],
    }
    return Verdict(word, tuple(checks), largest, limit, _failure(compared, alike, limits))


def describe_difference(difference: Difference) -> str:
    """Where two traces differ, in one line."""
    place = f"[{', '.join(map(str, difference.element))}]" if difference.element else ""
    when = "before training" if difference.update < 0 else f"at update {difference.update}"
    times = (
        f"{factor(difference.ratio, 3)} times the bound"
        if np.isfinite(difference.ratio)
        else "which no bound covers"
    )
    return (
        f"{when}, {difference.stage}, {difference.tensor}{place}: {difference.a!r} and "
        f"{difference.b!r}, {times}"
    )


def settles(limit: Limit | None, *of_float64: Limit | None) -> bool:
    """Whether float64, which was judged at every update, says what traces cannot that amplify
    rounding.

    Args:
        limit: of the traces in the recipe's dtype.
        of_float64: those of what was trained in float64 beside them.
    """
    is_amplified = limit is not None and limit.reason == AMPLIFIED
    return is_amplified and bool(of_float64) and all(other is None for other in of_float64)


def describe_limit(limit: Limit) -> str:
    """Up to where two trainings are equal, and why no farther."""
    if limit.update <= 0:
        return f"nothing was judged: from the start on {limit.reason}"
    return f"equal up to update {limit.update - 1}; from there on {limit.reason}"


def _against_oracle(
    twins: Mapping[str, Trace], oracle: Trace, derive_bounds: DeriveBounds
) -> dict[str, Comparison]:
    return {
        f"{backend} against oracle": compare_exactly(trace, oracle, derive_bounds)
        for backend, trace in twins.items()
        if trace is not oracle
    }


def _failure(
    compared: Mapping[str, Mapping[str, Comparison]],
    compare_twins: Mapping[str, Callable[[], Comparison]],
    limits: Mapping[str, Limit | None],
) -> Failure | None:
    """The first form in which something parts: what the frameworks mean comes before how they
    round.
    """
    for form, comparisons in compared.items():
        parting = [name for name, comparison in comparisons.items() if comparison.first is not None]
        if parting:
            off = tuple(twin for twin in TWINS if f"{twin} against oracle" in parting)
            float64 = _earliest(limits["semantics"], limits["fast"])
            return Failure(form, off, compare_twins[form]().first is None, float64)
    return None


def _engines(traces: Mapping[str, Trace]) -> str:
    """By which engine, in words to follow a precision; nothing where the traces do not say."""
    engines = {
        traces[twin].header["environment"].get("engine", "") for twin in TWINS if twin in traces
    }
    named = sorted(engines - {""})
    return f", {' and '.join(named)} engine{'s' * (len(named) > 1)}" if named else ""


def _data(traces: Mapping[str, Trace]) -> str:
    return f"hash {traces['torch'].header['data_hash'][:12]}"


def _updates(traces: Mapping[str, Trace]) -> int:
    return int(traces["torch"].header["updates"])


def _exact(title: str, comparisons: Mapping[str, Comparison], stage: str, detail: str) -> Check:
    for name, comparison in comparisons.items():
        if stage in comparison.worst and comparison.worst[stage].difference != 0:
            return Check(title, False, f"{name}: {describe_difference(comparison.worst[stage])}")
    return Check(title, True, detail)


def _first_limit(comparisons: Mapping[str, Comparison]) -> Limit | None:
    return _earliest(*(comparison.limit for comparison in comparisons.values()))


def _earliest(*limits: Limit | None) -> Limit | None:
    return min(filter(None, limits), key=lambda limit: limit.update, default=None)


def _bounded(
    title: str, comparisons: Mapping[str, Comparison], *, is_settled: bool = False
) -> Check:
    for name, comparison in comparisons.items():
        if comparison.first is not None:
            return Check(title, False, f"{name}: {describe_difference(comparison.first)}")
    ratios = f"error / bound: {', '.join(_ratios(comparisons))}"
    limit = _first_limit(comparisons)
    if limit is not None:
        return Check(
            title, is_settled, f"{describe_limit(limit)}; {ratios}", is_limited=not is_settled
        )
    return Check(title, True, ratios)


def _ratios(comparisons: Mapping[str, Comparison]) -> Sequence[str]:
    texts = []
    for name, comparison in comparisons.items():
        ratios = [
            comparison.worst[stage].ratio for stage in STAGES[2:] if stage in comparison.worst
        ]
        texts.append(f"{name} {factor(max(ratios), 2)}" if ratios else f"{name} not judged")
    return texts


def _largest(traces: Mapping[str, Trace], prefix: str) -> float:
    torch, jax = traces["torch"].arrays, traces["jax"].arrays
    names = [name for name in torch if name.startswith(prefix)]
    with np.errstate(all="ignore"):  # a run that blew up differs by a NaN
        return float(
            np.max([np.abs(torch[name].astype(np.float64) - jax[name]).max() for name in names])
        )
