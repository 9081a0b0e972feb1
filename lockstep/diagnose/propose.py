"""A name map drawn from two traces: from shapes and from what the arrays hold, and refused where
these leave a choice.

Initial parameters that hold the same numbers, in whatever layout, are each other's; equality counts
before closeness. Where that leaves several (all biases may be 0), what decides is, in this order:
the counterparts of the tensors beside it, how both change from there on, the name. Where nothing
holds the same numbers the shape alone may decide, but never of a kernel whose axes could be
exchanged.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Parameters
from lockstep.diagnose.names import Layout, NameMap
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

MOST_AXES = 5


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
    given = given or NameMap()
    search = _Search(a, b, given)
    search.run()
    search.refuse()
    layers = dict(_by_value(_detail(a, "forward"), _detail(b, "forward"), given.forward))
    batch = dict(_by_value(_detail(a, "batch"), _detail(b, "batch"), given.batch))
    return replace(
        given, names=dict(sorted(search.found.items())), forward=layers, batch=batch
    ), search.reasons


Candidates = list[Layout]


class _Search:
    """Counterparts found so far, and what may still be one."""

    def __init__(self, a: Trace, b: Trace, given: NameMap) -> None:
        self.a = {
            name: array for name, array in a.parameters(0).items() if name not in given.only_a
        }
        self.b = {
            name: array for name, array in b.parameters(0).items() if name not in given.only_b
        }
        if not self.a or not self.b:
            raise InputError(
                "names: the traces need their initial parameters: call Recorder.start(parameters)"
            )
        for side, names, held in (
            ("A", given.names, self.a),
            ("B", [x.name for x in given.names.values()], self.b),
        ):
            unknown = sorted(set(names) - held.keys())
            if unknown:
                raise InputError(
                    f"names: settled already, but not in trace {side}: {', '.join(unknown)}"
                )
        self.changes = _changes(a), _changes(b)
        self.found: dict[str, Layout] = dict(given.names)
        self.reasons = dict.fromkeys(given.names, "what was given")
        sums = {name: _fingerprint(array) for name, array in self.b.items()}
        self.open: dict[str, Candidates] = {}
        self.by_shape: dict[str, Candidates] = {}
        for name, array in self.a.items():
            if name in self.found:
                continue
            alike = {other: value for other, value in self.b.items() if value.size == array.size}
            near = [other for other in alike if _near(_fingerprint(array), sums[other])]
            self.open[name], self.by_shape[name] = (
                _closest(array, {other: alike[other] for other in near}),
                [],
            )
            if not self.open[name]:
                self.by_shape[name] = [
                    layout
                    for other, value in alike.items()
                    if value.ndim == array.ndim
                    for layout in layouts(array.shape, other, value.shape)
                ]

    @property
    def taken(self) -> set[str]:
        return {layout.name for layout in self.found.values()}

    def run(self) -> None:
        """Settle what is certain, then what follows from it, until nothing more does."""
        rules: tuple[tuple[str, Callable[[str, Candidates], Candidates]], ...] = (
            ("values", _all),
            ("the tensors beside it", self._beside),
            ("how it changes", self._changing),
            ("values and name", self._called),
        )
        while any(self._settle(self.open, reason, rule) for reason, rule in rules):
            pass
        shapes = ("shape alone, as the values differ", _all), ("name and shape", self._called)
        while any(self._settle(self.by_shape, reason, rule) for reason, rule in shapes):
            pass

    def _settle(
        self,
        pool: dict[str, Candidates],
        reason: str,
        rule: Callable[[str, Candidates], Candidates],
    ) -> bool:
        """Settle the names of a pool that a rule leaves one candidate, which it leaves nobody
        else.
        """
        taken = self.taken
        left = {
            name: rule(name, live)
            for name, candidates in pool.items()
            if name not in self.found
            and (live := [layout for layout in candidates if layout.name not in taken])
        }
        sure = {name: live[0] for name, live in left.items() if len(live) == 1}
        wanted = [layout.name for layout in sure.values()]
        sure = {name: layout for name, layout in sure.items() if wanted.count(layout.name) == 1}
        if pool is self.by_shape:
            rivals = {name: {x.name for x in live} for name, live in left.items()}
            sure = {
                name: layout
                for name, layout in sure.items()
                if not any(layout.name in names for rival, names in rivals.items() if rival != name)
            }
        self.found |= sure
        self.reasons |= dict.fromkeys(sure, reason)
        return bool(sure)

    def _beside(self, name: str, live: Candidates) -> Candidates:
        """Candidates in the module whose other tensors are counterparts of those beside this
        one.
        """
        beside = {
            _module(x.name) for other, x in self.found.items() if _module(other) == _module(name)
        }
        near = [x for x in live if _module(x.name) in beside]
        return near if len(near) == 1 else [x for x in near if _role(x.name) == _role(name)]

    def _changing(self, name: str, live: Candidates) -> Candidates:
        """The candidate that changes as this one does, by far more alike than the next."""
        for changes_a, changes_b in zip(*self.changes):
            if name not in changes_a or not all(x.name in changes_b for x in live):
                continue
            mine, theirs = changes_a[name], [x.turn(changes_b[x.name]) for x in live]
            # as they are; and, as a fault may have scaled them all, by their directions
            for distances in (
                [_distance(mine, change) for change in theirs],
                [_distance(_direction(mine), _direction(change)) for change in theirs],
            ):
                best, *others = sorted(distances)
                if best <= CLOSE and all(other > 10 * max(best, 1e-6) for other in others):
                    return [live[distances.index(best)]]
        return []

    def _called(self, name: str, live: Candidates) -> Candidates:
        """The candidate of this very name, where its layout leaves no choice."""
        return [x for x in live if x.name == name]

    def refuse(self) -> None:
        """Nothing, where every name has its counterpart."""
        taken = self.taken
        left = {
            name: sorted({x.name for x in self.open[name] or self.by_shape[name]} - taken)
            for name in sorted(self.a.keys() - self.found.keys())
        }
        extra = sorted(
            self.b.keys() - taken - {other for names in left.values() for other in names}
        )
        faults = [
            f"{name} may be {' or '.join(names)}{self._why(name, names)}"
            for name, names in left.items()
            if names
        ]
        missing = [name for name, names in left.items() if not names]
        if missing:
            faults.append(f"only in A: {', '.join(missing)}")
        if extra:
            faults.append(f"only in B: {', '.join(extra)}")
        if faults:
            raise InputError(
                f"names: {'; '.join(faults)}; settle these in a file and name it with --given"
            )

    def _why(self, name: str, names: list[str]) -> str:
        if len(names) > 1:
            return "" if self.open[name] else " (the initial values differ)"
        if self.open[name]:
            return " (it holds the same laid out either way)"
        return " (the initial values differ, and the shape does not say which axis is which)"


def _all(name: str, live: Candidates) -> Candidates:
    return live


def layouts(shape_a: tuple[int, ...], name: str, shape_b: tuple[int, ...]) -> Iterator[Layout]:
    """Every way in which an array of B's shape becomes one of A's: an order of its axes, after it
    was reshaped where it has more axes, or fewer."""
    if not shape_a and not shape_b:
        yield Layout(name)
    elif len(shape_a) > MOST_AXES or len(shape_b) > MOST_AXES:
        if shape_a == shape_b:
            yield Layout(name)
    elif sorted(shape_a) == sorted(shape_b):
        for axes in permutations(range(len(shape_a))):
            if tuple(shape_b[axis] for axis in axes) == shape_a:
                yield Layout(name, () if axes == tuple(range(len(axes))) else axes)
    elif len(shape_a) != len(shape_b):
        for axes in permutations(range(len(shape_a))):
            middle = tuple(shape_a[axes.index(axis)] for axis in range(len(axes)))
            yield Layout(name, () if axes == tuple(range(len(axes))) else axes, middle)


def _closest(array: NDArray[Any], others: Mapping[str, NDArray[Any]], fixed: int = 0) -> Candidates:
    """The arrays that hold the same numbers in some layout; where none does, those that hold close
    ones.
    """
    exact, close = [], []
    for name, other in others.items():
        seen = set()
        for layout in layouts(array.shape, name, other.shape):
            if layout.axes[:fixed] not in ((), tuple(range(fixed))):
                continue
            turned = layout.turn(other)
            # an axis of length 1 may stand anywhere: one layout stands for all of these
            way = tuple(turned.strides[i] for i, size in enumerate(turned.shape) if size > 1)
            if way in seen:
                continue
            seen.add(way)
            distance = _distance(array, turned)
            if distance == 0:
                exact.append(layout)
            elif distance <= CLOSE:
                close.append(layout)
    return exact or close


def _by_value(
    a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]], given: Mapping[str, Layout]
) -> Iterator[tuple[str, Layout]]:
    """Counterparts among outputs or batches, first axis first. Those that hold the same numbers
    count, of one name before others; where the numbers of a name part, it is laid out as all others
    with as many axes. What is alike in both needs no line; what is not certain is left out, since
    these need not be compared."""
    yield from given.items()
    settled = {layout.name for layout in given.values()}
    wanted = {name: array for name, array in a.items() if name not in given}
    held = {name: array for name, array in b.items() if name not in settled}
    found = {
        name: _closest(array, {x: v for x, v in held.items() if v.size == array.size}, fixed=1)
        for name, array in wanted.items()
    }
    certain: dict[str, Layout] = {}
    for name, candidates in found.items():
        alike = [x for x in candidates if x.name == name]
        rivals = {x.name for other, others in found.items() if other != name for x in others}
        left = alike or [x for x in candidates if x.name not in rivals]
        if len(left) == 1:
            certain[name] = left[0]
    ways = {(a[name].ndim, layout.axes) for name, layout in certain.items() if not layout.reshape}
    taken = {layout.name for layout in certain.values()}
    for name in (wanted.keys() & held.keys()) - taken:
        shared = [
            axes for axis_count, axes in ways if axis_count == wanted[name].ndim == held[name].ndim
        ]
        if not found[name] and len(shared) == 1:
            layout = Layout(name, *shared)
            if layout.turn(held[name]).shape == wanted[name].shape:
                certain[name] = layout
    yield from (
        (name, certain[name])
        for name in wanted
        if name in certain and certain[name] != Layout(name)
    )


def _detail(trace: Trace, family: str) -> dict[str, NDArray[Any]]:
    """The arrays of a family at the first update."""
    return arrays_below(trace.arrays, f"detail/0/{family}/")


def _changes(trace: Trace) -> tuple[Parameters, Parameters]:
    """How every parameter changes: its first gradient, and its first update."""
    before, after = trace.parameters(0), trace.parameters(1)
    return _detail(trace, "gradients"), {
        name: after[name].astype(np.float64) - before[name] for name in after if name in before
    }


def _distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest difference relative to the largest value, in the lower precision of the two; 1 where
    one is not finite
    or where a change is none."""
    lower = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    a, b = (array.astype(lower).astype(np.float64) for array in (a, b))
    if np.array_equal(a, b):
        return 0.0
    largest = np.abs(a).max(initial=0.0)
    gap = np.abs(a - b).max(initial=0.0)
    return float(gap / largest) if largest and np.isfinite(gap) else 1.0


def _direction(change: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(change / (np.abs(change).max(initial=0.0) or 1.0))


def _fingerprint(array: NDArray[Any]) -> NDArray[np.float64]:
    """What no layout changes: 2-norm and largest value."""
    wide = np.abs(array.astype(np.float64))
    return np.array([np.sqrt(np.square(wide).sum()), wide.max(initial=0.0)])


def _near(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    return bool(np.all(np.abs(a - b) <= 2 * CLOSE * np.abs(a)))


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _role(name: str) -> str:
    last = name.rpartition(".")[2]
    return ROLES.get(last, last)
