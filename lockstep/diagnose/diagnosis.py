"""From two traces to a diagnosis: whether they are equal, where they first part, which side is off,
and why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

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
from lockstep.records.trace import Trace

__all__ = ["HORIZON", "Diagnosis", "Unequal", "diagnose", "unequal_settings"]

HORIZON = 0.1
"""Share of the loss by which two right runs may differ before comparing their trajectories means
nothing: beyond it a bound lets pass what a wrong recipe does too (the nearest planted ones change a
loss by some per cent in an epoch)."""


WORDS = ("identical", "rounding", "inconclusive", "diverged")
"""Verdicts, the gravest last."""


class Unequal(NamedTuple):
    """A setting that the two sides do not share; None where a side does not state it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    `comparison` is of all arrays of a and b, `against` of each with the oracle's, where neither is
    that: two sides may be wrong alike. `first` is the first divergence of them all in causal order,
    with the values of a and b and, where there is an oracle, its value `truth`. `unequal` settings
    come first: what follows may be their doing. `off` is who is off at the first divergence, "a",
    "b", "both", or "" where there is no oracle to tell or it is as near to either; `distances` of
    both from the oracle there, over its bound. `cause` is None where no known one explains the
    numbers. `horizon` is the update from which on two right runs may differ by more than `HORIZON`
    of their loss, None if there is none in the run. `local`, where every update began from the
    oracle's state, are the updates that are wrong by themselves; None where each went on from the
    last, and errors add up. `noise` has, for each side that was run
    again, its largest distance from itself over the bound.
    `needs` are the updates whose detail would tell more.
    """

    comparison: Comparison
    unequal: tuple[Unequal, ...] = ()
    off: str = ""
    distances: tuple[float, float] | None = None
    cause: Cause | None = None
    horizon: int | None = None
    local: tuple[int, ...] | None = None
    noise: Mapping[str, float] | None = None
    needs: tuple[int, ...] = ()
    first: Difference | None = None
    truth: float | None = None
    against: Mapping[str, Comparison] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """identical, rounding, inconclusive or diverged: of a against b, or of one against the
        oracle where graver.
        """
        worse = [found.verdict for found in self.against.values() if found.verdict in WORDS[2:]]
        return max((self.comparison.verdict, *worse), key=WORDS.index)

    @property
    def deciding(self) -> tuple[tuple[str, str], Comparison]:
        """The comparison that has a divergence, and its sides: a and b, or one of them and the
        oracle.
        """
        for side, found in self.against.items():
            if self.comparison.first is None and found.first is not None:
                return (side, "oracle"), found
        return ("a", "b"), self.comparison

    @property
    def limit(self) -> Limit | None:
        """From where on nothing was judged; None where everything was, or where only the oracle
        shows what parts.
        """
        limits = [
            one.limit for one in (self.comparison, *self.against.values()) if one.limit is not None
        ]
        is_shown = self.verdict != "diverged" or self.comparison.first is not None
        return min(limits, key=lambda limit: limit.update, default=None) if is_shown else None

    @property
    def most(self) -> Difference | None:
        """Where the first divergence is the norm of an update: the parameter tensor that it moved
        most wrongly.
        """
        first = self.first
        if first is None or first.tensor != "update_norm":
            return None
        moved = [found for found in self.deciding[1].parted if found.stage == "parameters"]
        return max(
            (found for found in moved if found.update == first.update),
            key=lambda f: f.ratio,
            default=None,
        )


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
        somebody's own loop). reruns: "a" and "b" -> traces of the same side, run again: its own
        noise, measured before the other is blamed.

    Raises:
        InputError: traces that cannot be compared.
    """
    known = bounds if bounds is not None else bounds_of(*((oracle,) if oracle else ()), a, b) or {}
    found = compare(a, b, known)
    noise = {
        side: max(_farthest(trace, again, known) for again in reruns[side])
        for side, trace in (("a", a), ("b", b))
        if reruns and reruns.get(side)
    }
    against = _against(a, b, oracle, known)
    first, distances, off, truth = _first(found, against), None, "", None
    if first is not None and oracle is not None and first.array in oracle.arrays:
        distances = (_distance(a, oracle, first, known), _distance(b, oracle, first, known))
        off = {(True, False): "a", (False, True): "b", (True, True): "both"}.get(
            (not distances[0] <= 1, not distances[1] <= 1), ""
        )
        truth = _value(oracle, oracle, first, known)
        if first is not found.first:
            first = replace(
                first, a=_value(a, oracle, first, known), b=_value(b, oracle, first, known)
            )
    parted = [*found.parted, *(part for one in against.values() for part in one.parted)]
    return Diagnosis(
        found,
        unequal_settings(a, b),
        off,
        distances,
        _cause(first, off, a, b, oracle) if first else None,
        _horizon(oracle or a, known),
        tuple(sorted({part.update for part in parted})) if a.header.get("synchronised") else None,
        noise or None,
        tuple(needed_detail(first, a, b)) if first else (),
        first,
        truth,
        against,
    )


def _against(a: Trace, b: Trace, oracle: Trace | None, bounds: Bounds) -> dict[str, Comparison]:
    """Each side against the oracle; none where a side is the oracle's."""
    if oracle is None or "oracle" in (a.header.get("backend"), b.header.get("backend")):
        return {}
    return {side: compare(trace, oracle, bounds) for side, trace in (("a", a), ("b", b))}


def _first(found: Comparison, against: Mapping[str, Comparison]) -> Difference | None:
    """The first divergence of all; of those at one place that of the two sides, which the cause
    explains best.
    """
    firsts = [part for one in (found, *against.values()) if (part := one.first) is not None]
    return min(
        firsts, key=lambda part: (part.update, STAGES.index(part.stage), part.rank), default=None
    )


def _cause(first: Difference, off: str, a: Trace, b: Trace, oracle: Trace | None) -> Cause | None:
    """What explains the first divergence; where both sides are off, of each against the oracle."""
    if off != "both" or oracle is None:
        return find_cause(first, a, b, oracle)
    of_a, of_b = find_cause(first, a, oracle, oracle), find_cause(first, oracle, b, oracle)
    if of_a is None or of_b is None:
        return of_a or of_b
    are_alike = of_a.text.removeprefix("a") == of_b.text.removeprefix("b")
    return replace(
        of_a, text=f"{of_a.text}; {'likewise b' if are_alike else of_b.text}", side="both"
    )


def _value(trace: Trace, oracle: Trace, at: Difference, bounds: Bounds) -> float:
    """A side's value where two others differ."""
    if at.array.startswith(("parameters/", "average/", "detail/")):
        array = trace.arrays[at.array]
        is_there = array.ndim == len(at.element) and all(
            i < n for i, n in zip(at.element, array.shape)
        )
        return float(array[at.element]) if is_there else np.nan
    places = differences(trace, oracle, at.array, bounds, at)
    return places[0].a if places else np.nan


def unequal_settings(a: Trace, b: Trace) -> tuple[Unequal, ...]:
    """What the two sides were run with that differs: of their environments what both state, of
    their settings all.
    """
    found = []
    for part in ("environment", "settings"):
        values_a, values_b = (_flat(trace.header.get(part) or {}) for trace in (a, b))
        names = (
            values_a.keys() & values_b.keys()
            if part == "environment"
            else values_a.keys() | values_b.keys()
        )
        differing = [name for name in sorted(names) if values_a.get(name) != values_b.get(name)]
        found += [Unequal(name, values_a.get(name), values_b.get(name)) for name in differing]
    return tuple(found)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return found


def _distance(trace: Trace, oracle: Trace, at: Difference, bounds: Bounds) -> float:
    """Largest error over bound against the oracle, of the array and update at which the two sides
    part.
    """
    return max(found.ratio for found in differences(trace, oracle, at.array, bounds, at))


def _farthest(trace: Trace, again: Trace, bounds: Bounds) -> float:
    return max(worst.ratio for worst in compare(trace, again, bounds).worst.values())


def _horizon(trace: Trace, bounds: Bounds) -> int | None:
    if "updates/loss" not in bounds:
        return None
    loss_T, bound_T = (
        np.abs(trace.arrays["updates/loss"]),
        bounds["updates/loss"][trace.first_update :],
    )
    beyond_T = ~(2 * bound_T <= HORIZON * loss_T)  # the bounds of two sides add
    return trace.first_update + int(beyond_T.argmax()) if beyond_T.any() else None
