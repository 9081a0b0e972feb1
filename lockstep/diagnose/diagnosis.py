"""From two traces to a diagnosis: whether they are equal, where they first part, which side is off,
and why.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lockstep.diagnose.between.judge import Explained, RuledOut, explain
from lockstep.diagnose.causes import Cause, find_cause, needed_detail
from lockstep.diagnose.compare import (
    STAGES,
    Bounds,
    Comparison,
    Difference,
    Limit,
    bounds_of,
    compare,
    differences,
)
from lockstep.diagnose.loops import is_loop
from lockstep.diagnose.operations import (
    OperationDifference,
    advice_on_operations,
    first_operation,
)
from lockstep.diagnose.pages import page_of
from lockstep.diagnose.skipped import skipped_before
from lockstep.diagnose.to_record import to_record
from lockstep.diagnose.unequal import Unequal, unequal_settings
from lockstep.records.trace import Trace

__all__ = ["HORIZON", "Diagnosis", "Unequal", "diagnose", "unequal_settings"]

HORIZON = 0.1
"""Share of the loss by which two right runs may differ before comparing their trajectories means
nothing. Beyond it a bound lets pass what a wrong recipe does too: the nearest planted ones change a
loss by some per cent in an epoch."""

WORDS = ("identical", "rounding", "inconclusive", "diverged")
"""Verdicts, the gravest last."""
GRAVE = WORDS[2:]


@dataclass(frozen=True)
class Diagnosis:
    """The comparison of two traces, and what explains their first divergence.

    Attributes:
        comparison: of all arrays of a and b.
        unequal: the settings that differ. They are shown first, since what follows may be their
            doing.
        off: who is off at the first divergence: "a", "b" or "both"; "" where there is no oracle to
            tell, or where it is as near to either.
        distances: of a and b from the oracle at the first divergence, over its bound.
        cause: what explains the numbers; None where no known cause does.
        further: of two loops, causes of what the first does not entail, in causal order.
        ruled_out: of two loops without a cause, what was tried, the nearest first.
        to_record: of two loops without a cause, what to record to know more.
        horizon: the update from which on two right runs may differ by more than `HORIZON` of their
            loss; None if there is none in the run.
        local: where every update began from the oracle's state, the updates that are wrong by
            themselves; None where each update went on from the last, and errors add up.
        noise: for each side that was run again, its largest distance from itself over the bound.
        needs: the updates whose detail would tell more.
        first: the first divergence of all comparisons in causal order, with the values of a and b.
        truth: the oracle's value at the first divergence; None without an oracle.
        against: each side compared with the oracle, where neither is that: two sides may be wrong
            alike.
        operation: of two loops that list their operations, the first whose result differs; None
            where the listings do not tell.
        advice: how to record the operations where they would tell more; "" where nothing would.
        skipped: the layers just before the first divergence that were not compared, in words.
    """

    comparison: Comparison
    unequal: tuple[Unequal, ...] = ()
    off: str = ""
    distances: tuple[float, float] | None = None
    cause: Cause | None = None
    further: tuple[Cause, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()
    to_record: tuple[str, ...] = ()
    horizon: int | None = None
    local: tuple[int, ...] | None = None
    noise: Mapping[str, float] | None = None
    needs: tuple[int, ...] = ()
    first: Difference | None = None
    truth: float | None = None
    against: Mapping[str, Comparison] = field(default_factory=dict)
    operation: OperationDifference | None = None
    advice: str = ""
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """identical, rounding, inconclusive or diverged: of a against b, or of one against the
        oracle where that is graver.
        """
        verdicts = [self.comparison.verdict]
        verdicts += [other.verdict for other in self.against.values() if other.verdict in GRAVE]
        return max(verdicts, key=WORDS.index)

    @property
    def deciding(self) -> tuple[tuple[str, str], Comparison]:
        """The two sides of the comparison that has a divergence, and the comparison: a and b, or
        one of them and the oracle.
        """
        for side, comparison in self.against.items():
            if self.comparison.first is None and comparison.first is not None:
                return (side, "oracle"), comparison
        return ("a", "b"), self.comparison

    @property
    def limit(self) -> Limit | None:
        """Where judging ends; None where everything was judged, or where only the oracle shows the
        divergence.
        """
        if self.verdict == "diverged" and self.comparison.first is None:
            return None
        limits = [comparison.limit for comparison in (self.comparison, *self.against.values())]
        return min(filter(None, limits), key=lambda limit: limit.update, default=None)

    @property
    def most(self) -> Difference | None:
        """The parameter tensor that the update moved most wrongly, where the first divergence is
        the norm of an update; else None.
        """
        first = self.first
        if first is None or first.tensor != "update_norm":
            return None
        _, comparison = self.deciding
        moved = [
            difference
            for difference in comparison.parted
            if difference.stage == "parameters" and difference.update == first.update
        ]
        return max(moved, key=lambda difference: difference.ratio, default=None)


def diagnose(
    a: Trace,
    b: Trace,
    oracle: Trace | None = None,
    *,
    bounds: Bounds | None = None,
    reruns: Mapping[str, Sequence[Trace]] | None = None,
) -> Diagnosis:
    """Compare two traces and explain the first divergence.

    Args:
        a: one side.
        b: the other.
        oracle: the float64 reference of the same recipe, with bounds; says which side is off.
        bounds: what rounding may do, where no trace carries it (`lockstep.diagnose.noise` for
            somebody's own loop).
        reruns: "a" and "b" -> traces of the same side, run again: its own noise, measured before
            the other is blamed.

    Raises:
        InputError: traces that cannot be compared.
    """
    if bounds is None:
        carriers = (a, b) if oracle is None else (oracle, a, b)
        bounds = bounds_of(*carriers) or {}
    comparison = compare(a, b, bounds)
    against = _against_oracle(a, b, oracle, bounds)
    comparisons = [comparison, *against.values()]
    known = Diagnosis(
        comparison,
        unequal=unequal_settings(a, b),
        horizon=_horizon(oracle or a, bounds),
        local=_wrong_updates(comparisons) if a.header.get("synchronised") else None,
        noise=dict(_noise(a, b, bounds, reruns or {})) or None,
        against=against,
    )
    first = _first(comparisons)
    if first is None:
        return known
    if oracle is None or first.array not in oracle.arrays:
        explained = _explained(first, a, b, oracle, bounds, comparison)
        return replace(
            known,
            cause=explained.cause,
            further=explained.further,
            ruled_out=explained.ruled_out,
            to_record=() if explained.cause else to_record(first, a, b),
            needs=needed_detail(first, a, b),
            first=first,
            operation=first_operation(a, b, first),
            advice=advice_on_operations(a, b, first),
            skipped=skipped_before(first, a, b),
        )
    distances = (_distance(a, oracle, first, bounds), _distance(b, oracle, first, bounds))
    off = _side_off(distances)
    if first is not comparison.first:
        value_a = _value(a, oracle, first, bounds)
        value_b = _value(b, oracle, first, bounds)
        first = replace(first, a=value_a, b=value_b)
    return replace(
        known,
        off=off,
        distances=distances,
        cause=_cause(first, off, a, b, oracle),
        needs=needed_detail(first, a, b),
        first=first,
        truth=_value(oracle, oracle, first, bounds),
    )


def _against_oracle(
    a: Trace, b: Trace, oracle: Trace | None, bounds: Bounds
) -> dict[str, Comparison]:
    """Each side against the oracle; none where a side is the oracle's."""
    if oracle is None or "oracle" in (a.header.get("backend"), b.header.get("backend")):
        return {}
    return {"a": compare(a, oracle, bounds), "b": compare(b, oracle, bounds)}


def _first(comparisons: Sequence[Comparison]) -> Difference | None:
    """The first divergence of all. Of those at one place the first comparison's, of the two sides,
    is taken, which the cause explains best.
    """
    firsts = [comparison.first for comparison in comparisons if comparison.first is not None]
    return min(
        firsts,
        key=lambda first: (first.update, STAGES.index(first.stage), first.rank),
        default=None,
    )


def _wrong_updates(comparisons: Sequence[Comparison]) -> tuple[int, ...]:
    """The updates at which anything parts, ascending."""
    updates: set[int] = set()
    for comparison in comparisons:
        updates |= {difference.update for difference in comparison.parted}
    return tuple(sorted(updates))


def _side_off(distances: tuple[float, float]) -> str:
    """Who is beyond the oracle's bound: "a", "b", "both" or ""; a NaN is beyond it."""
    off_a = not distances[0] <= 1
    off_b = not distances[1] <= 1
    if off_a and off_b:
        return "both"
    if off_a:
        return "a"
    return "b" if off_b else ""


def _cause(first: Difference, off: str, a: Trace, b: Trace, oracle: Trace | None) -> Cause | None:
    """What explains the first divergence; where both sides are off, of each against the oracle."""
    if off != "both" or oracle is None:
        return find_cause(first, a, b, oracle)
    of_a = find_cause(first, a, oracle, oracle)
    of_b = find_cause(first, oracle, b, oracle)
    if of_a is None or of_b is None:
        return of_a or of_b
    is_alike = of_a.text.removeprefix("a") == of_b.text.removeprefix("b")
    text_b = "likewise b" if is_alike else of_b.text
    return replace(of_a, text=f"{of_a.text}; {text_b}", side="both")


def _explained(
    first: Difference,
    a: Trace,
    b: Trace,
    oracle: Trace | None,
    bounds: Bounds,
    comparison: Comparison,
) -> Explained:
    """The causes where no oracle tells who is off."""
    if not is_loop(a):
        return Explained(_cause(first, "", a, b, oracle))
    explained = explain(first, a, b, bounds, comparison)
    cause = None if explained.cause is None else _with_page(explained.cause)
    return explained._replace(cause=cause, further=tuple(map(_with_page, explained.further)))


def _with_page(cause: Cause) -> Cause:
    """The cause with the page on its kind, where it names none of its own."""
    return cause if cause.page else replace(cause, page=page_of(cause.key))


def _value(trace: Trace, oracle: Trace, at: Difference, bounds: Bounds) -> float:
    """A side's value where two others differ; NaN where it has none."""
    if not at.array.startswith(("parameters/", "average/", "detail/")):
        places = differences(trace, oracle, at.array, bounds, at)
        return places[0].a if places else np.nan
    array = trace.arrays[at.array]
    if array.ndim != len(at.element):
        return np.nan
    is_inside = all(index < size for index, size in zip(at.element, array.shape))
    return float(array[at.element]) if is_inside else np.nan


def _distance(trace: Trace, oracle: Trace, at: Difference, bounds: Bounds) -> float:
    """The largest error over bound against the oracle, of the array and update at which the two
    sides part.
    """
    places = differences(trace, oracle, at.array, bounds, at)
    return max(place.ratio for place in places)


def _noise(
    a: Trace, b: Trace, bounds: Bounds, reruns: Mapping[str, Sequence[Trace]]
) -> Iterator[tuple[str, float]]:
    """Each side that was run again, and its largest distance from itself over the bound."""
    for side, trace in (("a", a), ("b", b)):
        if reruns.get(side):
            yield side, max(_farthest(trace, again, bounds) for again in reruns[side])


def _farthest(trace: Trace, again: Trace, bounds: Bounds) -> float:
    return max(worst.ratio for worst in compare(trace, again, bounds).worst.values())


def _horizon(trace: Trace, bounds: Bounds) -> int | None:
    """As `Diagnosis.horizon`."""
    if "updates/loss" not in bounds:
        return None
    loss_T = np.abs(trace.arrays["updates/loss"])
    bound_T = bounds["updates/loss"][trace.first_update :]
    beyond_T = ~(2 * bound_T <= HORIZON * loss_T)  # the bounds of two sides add
    return trace.first_update + int(beyond_T.argmax()) if beyond_T.any() else None
