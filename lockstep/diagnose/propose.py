"""A name map drawn from two traces: from shapes and from what the arrays hold, and refused where
these leave a choice.

Initial parameters that hold the same numbers, in whatever layout, are each other's; equality counts
before closeness. Several may do, as all biases may be 0. Then the following decides, in this order:
the counterparts of the tensors beside it, how both change from there on, the name. Where nothing
holds the same numbers the shape alone may decide, but never of a kernel whose axes could be
exchanged.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Parameters
from lockstep.diagnose.naming.layouts import Layout, Source, layouts
from lockstep.diagnose.naming.name_map import NameMap
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["propose"]

CLOSE = 1e-2
"""Largest relative difference, by the largest value, of initial parameters that count as close:
bfloat16 rounds by 4e-3, and two independent draws differ by about 1."""

ROLES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "running_mean": "mean",
    "running_var": "var",
}
"""Last part of a name -> what it stands for in both frameworks."""

Values = NDArray[Any]
Sums = NDArray[np.float64]
"""The 2-norm and the largest value of an array."""
Arrays = Mapping[str, Values]
"""Name -> array."""
Candidates = list[Layout]
"""What may be the counterpart of a tensor."""
Rule = Callable[[str, Candidates], Candidates]
"""Name of A, and its candidates -> the candidates that a rule leaves."""


def propose(a: Trace, b: Trace, given: NameMap | None = None) -> tuple[NameMap, dict[str, str]]:
    """The map of B's names to A's, and for each of A's names what it is drawn from.

    Args:
        a: a trace with its initial parameters.
        b: the other.
        given: lines that are settled already.

    Raises:
        InputError: names without a counterpart, or with several; names them all, with their
            candidates.
    """
    settled = given or NameMap()
    search = _Search(a, b, settled)
    search.run()
    search.refuse()
    names = replace(
        settled,
        names=dict(sorted(search.settled.items())),
        forward=_by_value(_detail(a, "forward"), _detail(b, "forward"), settled.forward),
        batch=_by_value(_detail(a, "batch"), _detail(b, "batch"), settled.batch),
    )
    return names, search.reasons


class _Search:
    """The counterparts settled so far, and what may still be one.

    `settled` and `reasons` have A's names that are settled. `by_value` has candidates that hold the
    same numbers, `by_shape` those of names for which nothing does.
    """

    def __init__(self, a: Trace, b: Trace, given: NameMap) -> None:
        self.a = _without(a.parameters(0), given.only_a)
        self.b = _without(b.parameters(0), given.only_b)
        if not self.a or not self.b:
            raise InputError(
                "names: the traces need their initial parameters: call Recorder.start(parameters)"
            )
        _refuse_unknown("A", set(given.names), self.a)
        _refuse_unknown(
            "B", {name for source in given.names.values() for name in source.names}, self.b
        )
        self.changes = _changes(a), _changes(b)
        self.settled: dict[str, Source] = dict(given.names)
        self.reasons = dict.fromkeys(given.names, "what was given")
        self.by_value: dict[str, Candidates] = {}
        self.by_shape: dict[str, Candidates] = {}
        sums = {name: _fingerprint(array) for name, array in self.b.items()}
        for name, array in self.a.items():
            if name not in self.settled:
                self.by_value[name] = self._candidates_by_value(array, sums)
                self.by_shape[name] = (
                    [] if self.by_value[name] else self._candidates_by_shape(array)
                )

    def _candidates_by_value(self, array: Values, sums: Mapping[str, Sums]) -> Candidates:
        fingerprint = _fingerprint(array)
        near = {
            name: other
            for name, other in self.b.items()
            if other.size == array.size and _near(fingerprint, sums[name])
        }
        return _closest(array, near)

    def _candidates_by_shape(self, array: Values) -> Candidates:
        candidates: Candidates = []
        for name, other in self.b.items():
            if other.size == array.size and other.ndim == array.ndim:
                candidates += layouts(array.shape, name, other.shape)
        return candidates

    @property
    def settled_of_b(self) -> set[str]:
        """B's names that are settled."""
        return {name for source in self.settled.values() for name in source.names}

    def run(self) -> None:
        """Settle what is certain, then what follows from it, until nothing more does."""
        value_rules: tuple[tuple[str, Rule], ...] = (
            ("values", _all),
            ("the tensors beside it", self._beside),
            ("how it changes", self._changing),
            ("values and name", self._called),
        )
        shape_rules: tuple[tuple[str, Rule], ...] = (
            ("shape alone, as the values differ", _all),
            ("name and shape", self._called),
        )
        for pool, rules in ((self.by_value, value_rules), (self.by_shape, shape_rules)):
            while any(self._settle(pool, reason, rule) for reason, rule in rules):
                pass

    def _settle(self, pool: Mapping[str, Candidates], reason: str, rule: Rule) -> bool:
        """Settle each name of a pool that a rule leaves one candidate, if that is left to no other
        name. Says whether there was one.
        """
        left = self._left(pool, rule)
        sure = {name: live[0] for name, live in left.items() if len(live) == 1}
        wanted = [layout.name for layout in sure.values()]
        sure = {name: layout for name, layout in sure.items() if wanted.count(layout.name) == 1}
        if pool is self.by_shape:
            rivals = {name: {layout.name for layout in live} for name, live in left.items()}
            sure = {
                name: layout
                for name, layout in sure.items()
                if not any(layout.name in rivals[rival] for rival in rivals if rival != name)
            }
        self.settled |= sure
        self.reasons |= dict.fromkeys(sure, reason)
        return bool(sure)

    def _left(self, pool: Mapping[str, Candidates], rule: Rule) -> dict[str, Candidates]:
        """The candidates that a rule leaves each name that is not settled and still has any."""
        settled_of_b = self.settled_of_b
        left = {}
        for name, candidates in pool.items():
            live = [layout for layout in candidates if layout.name not in settled_of_b]
            if live and name not in self.settled:
                left[name] = rule(name, live)
        return left

    def _beside(self, name: str, live: Candidates) -> Candidates:
        """Candidates in the module whose other tensors are counterparts of those beside this
        one.
        """
        beside = {
            _module(part)
            for other, source in self.settled.items()
            if _module(other) == _module(name)
            for part in source.names
        }
        near = [layout for layout in live if _module(layout.name) in beside]
        if len(near) == 1:
            return near
        return [layout for layout in near if _role(layout.name) == _role(name)]

    def _changing(self, name: str, live: Candidates) -> Candidates:
        """The candidate that changes as this one does, by far more alike than the next."""
        for changes_a, changes_b in zip(*self.changes):
            if name not in changes_a or not all(layout.name in changes_b for layout in live):
                continue
            change = changes_a[name]
            others = [layout.turn(changes_b[layout.name]) for layout in live]
            # as they are; and, as a fault may have scaled them all, by their directions
            distances = [_distance(change, other) for other in others]
            turns = [_distance(_direction(change), _direction(other)) for other in others]
            for by_candidate in (distances, turns):
                best, *rest = sorted(by_candidate)
                if best <= CLOSE and all(distance > 10 * max(best, 1e-6) for distance in rest):
                    return [live[by_candidate.index(best)]]
        return []

    def _called(self, name: str, live: Candidates) -> Candidates:
        """The candidate of this very name, where its layout leaves no choice."""
        return [layout for layout in live if layout.name == name]

    def refuse(self) -> None:
        """Raise InputError unless every name has its counterpart."""
        settled_of_b = self.settled_of_b
        left: dict[str, list[str]] = {}
        for name in sorted(self.a.keys() - self.settled.keys()):
            candidates = self.by_value[name] or self.by_shape[name]
            left[name] = sorted({layout.name for layout in candidates} - settled_of_b)
        extra = self.b.keys() - settled_of_b
        for names in left.values():
            extra = extra.difference(names)
        faults = [
            f"{name} may be {' or '.join(names)}{self._why(name, names)}"
            for name, names in left.items()
            if names
        ]
        missing = [name for name, names in left.items() if not names]
        if missing:
            faults.append(f"only in A: {', '.join(missing)}")
        if extra:
            faults.append(f"only in B: {', '.join(sorted(extra))}")
        if faults:
            raise InputError(
                f"names: {'; '.join(faults)}; settle these in a file and name it with --given"
            )

    def _why(self, name: str, names: list[str]) -> str:
        if len(names) > 1:
            return "" if self.by_value[name] else " (the initial values differ)"
        if self.by_value[name]:
            return " (it holds the same laid out either way)"
        return " (the initial values differ, and the shape does not say which axis is which)"


def _without(parameters: Parameters, names: frozenset[str]) -> Parameters:
    return {name: array for name, array in parameters.items() if name not in names}


def _refuse_unknown(side: str, names: set[str], parameters: Arrays) -> None:
    unknown = sorted(names - parameters.keys())
    if unknown:
        raise InputError(f"names: settled already, but not in trace {side}: {', '.join(unknown)}")


def _all(name: str, live: Candidates) -> Candidates:
    return live


def _closest(array: Values, others: Arrays, fixed: int = 0) -> Candidates:
    """The arrays that hold the same numbers in some layout; where none does, those that hold close
    ones. The first `fixed` axes stay where they are.
    """
    exact: Candidates = []
    close: Candidates = []
    for name, other in others.items():
        for layout in _distinct_layouts(array, name, other, fixed):
            distance = _distance(array, layout.turn(other))
            if distance == 0:
                exact.append(layout)
            elif distance <= CLOSE:
                close.append(layout)
    return exact or close


def _distinct_layouts(array: Values, name: str, other: Values, fixed: int) -> Iterator[Layout]:
    """The layouts that lead from `other` to the array's shape. An axis of length 1 may stand
    anywhere: one layout stands for all of these.
    """
    strides = set()
    for layout in layouts(array.shape, name, other.shape):
        if layout.axes[:fixed] not in ((), tuple(range(fixed))):
            continue
        turned = layout.turn(other)
        strides_of_long_axes = tuple(
            stride for stride, size in zip(turned.strides, turned.shape) if size > 1
        )
        if strides_of_long_axes not in strides:
            strides.add(strides_of_long_axes)
            yield layout


def _by_value(a: Arrays, b: Arrays, given: Mapping[str, Layout]) -> dict[str, Layout]:
    """Counterparts among outputs or batches; the first axis stays the first.

    Arrays that hold the same numbers count, of one name before others. Where the numbers of a name
    part, it is laid out as all others with as many axes. A name that is alike in both needs no
    line. What is not certain is left out, since outputs and batches need not be compared.
    """
    of_b = {layout.name for layout in given.values()}
    open_a = {name: array for name, array in a.items() if name not in given}
    open_b = {name: array for name, array in b.items() if name not in of_b}
    candidates: dict[str, Candidates] = {}
    for name, array in open_a.items():
        of_its_size = {other: value for other, value in open_b.items() if value.size == array.size}
        candidates[name] = _closest(array, of_its_size, fixed=1)
    certain = _certain(candidates)
    ways = {(a[name].ndim, layout.axes) for name, layout in certain.items() if not layout.reshape}
    certain_of_b = {layout.name for layout in certain.values()}
    for name in (open_a.keys() & open_b.keys()) - certain_of_b:
        array = open_a[name]
        other = open_b[name]
        shared = [axes for ndim, axes in ways if ndim == array.ndim == other.ndim]
        if not candidates[name] and len(shared) == 1:
            layout = Layout(name, shared[0])
            if layout.turn(other).shape == array.shape:
                certain[name] = layout
    lines = dict(given)
    for name in open_a:
        if name in certain and certain[name] != Layout(name):
            lines[name] = certain[name]
    return lines


def _certain(candidates: Mapping[str, Candidates]) -> dict[str, Layout]:
    """The names with one candidate of the same name, or else with one that no other name has."""
    certain: dict[str, Layout] = {}
    for name, layouts_of_name in candidates.items():
        same_name = [layout for layout in layouts_of_name if layout.name == name]
        rivals: set[str] = set()
        for other, layouts_of_other in candidates.items():
            if other != name:
                rivals |= {layout.name for layout in layouts_of_other}
        left = same_name or [layout for layout in layouts_of_name if layout.name not in rivals]
        if len(left) == 1:
            certain[name] = left[0]
    return certain


def _detail(trace: Trace, family: str) -> dict[str, Values]:
    """The arrays of a family at the first update."""
    return arrays_below(trace.arrays, f"detail/0/{family}/")


def _changes(trace: Trace) -> tuple[Parameters, Parameters]:
    """How every parameter changes: its first gradient, and its first update."""
    before = trace.parameters(0)
    after = trace.parameters(1)
    updates = {
        name: array.astype(np.float64) - before[name]
        for name, array in after.items()
        if name in before
    }
    return _detail(trace, "gradients"), updates


def _distance(a: Values, b: Values) -> float:
    """Largest difference relative to the largest value, in the lower precision of the two; 1 where
    one is not finite or where `a` is 0 throughout.
    """
    lower = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    wide_a = a.astype(lower).astype(np.float64)
    wide_b = b.astype(lower).astype(np.float64)
    if np.array_equal(wide_a, wide_b):
        return 0.0
    largest = np.abs(wide_a).max(initial=0.0)
    gap = np.abs(wide_a - wide_b).max(initial=0.0)
    return float(gap / largest) if largest and np.isfinite(gap) else 1.0


def _direction(change: Values) -> Values:
    return np.asarray(change / (np.abs(change).max(initial=0.0) or 1.0))


def _fingerprint(array: Values) -> Sums:
    """What no layout changes: 2-norm and largest value."""
    wide = np.abs(array.astype(np.float64))
    return np.array([np.sqrt(np.square(wide).sum()), wide.max(initial=0.0)])


def _near(a: Sums, b: Sums) -> bool:
    return bool(np.all(np.abs(a - b) <= 2 * CLOSE * np.abs(a)))


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _role(name: str) -> str:
    last = name.rpartition(".")[2]
    return ROLES.get(last, last)
