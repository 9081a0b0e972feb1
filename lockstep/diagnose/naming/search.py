"""The search for counterparts of parameters: what is settled, what may still be one, and the rules
that settle it.

Equal numbers count first, before close ones. Constants, as all biases may be 0, say nothing by
themselves: then the counterparts of the tensors beside a tensor decide, how both change from there
on, and the name. A parameter is no counterpart of a running statistic, nor a bias of a weight,
where both sides say which is which.
"""

from collections.abc import Callable, Mapping

from lockstep.diagnose.naming.layouts import Layout, Source, Sum, Values
from lockstep.diagnose.naming.sides import Side
from lockstep.diagnose.naming.values import (
    CLOSE,
    closest,
    direction,
    distance,
    distinct_layouts,
    fingerprint,
    is_constant,
    near,
)
from lockstep.diagnose.naming.words import read_name

__all__ = ["Candidates", "Search"]

Candidates = list[Layout]
"""What may be the counterpart of a tensor."""
Modules = dict[str, set[str]]
"""A module of one side -> modules of the other."""
Rule = Callable[[str, Candidates], Candidates]
"""Name of A, and its candidates -> the candidates that a rule leaves."""

VALUES = "values"
BESIDE = "the tensors beside it"
BY_SHAPE = "shape alone, as the values differ"
UNLIKE = 1e-6
"""Least distance to the next best change; that of equal ones is 0."""


class Search:
    """The counterparts settled so far, and what may still be one.

    Attributes:
        a: side A.
        b: side B.
        settled: A's name -> what it is made of.
        reasons: A's name, or that of a sum -> what it was settled by.
        sums: a name for a sum -> its terms.
        by_value: A's name -> the candidates that hold the same numbers.
        tried: ways of finding pieces by values, and the names that they were tried for.
    """

    def __init__(self, a: Side, b: Side, given: Mapping[str, Source]) -> None:
        self.a = a
        self.b = b
        self.settled: dict[str, Source] = dict(given)
        self.reasons: dict[str, str] = dict.fromkeys(given, "what was given")
        self.sums: dict[str, Sum] = {}
        self.tried: set[tuple[str, str]] = set()
        self._linked = -1
        self._links: tuple[Modules, Modules] = {}, {}
        self._changes = (
            (a.of_first_update("gradients"), b.of_first_update("gradients")),
            (a.changes(), b.changes()),
        )
        self._sums_a = {name: fingerprint(array) for name, array in a.arrays.items()}
        self._sums_b = {name: fingerprint(array) for name, array in b.arrays.items()}
        self.constants = {name for name, array in a.arrays.items() if is_constant(array)}
        self.by_value = {
            name: self._of_equal_values(name, array)
            for name, array in a.arrays.items()
            if name not in given
        }

    def _of_equal_values(self, name: str, array: Values) -> Candidates:
        others = {
            other: value
            for other, value in self.b.arrays.items()
            if self.are_near(name, other)
            and (name not in self.constants or self.may_be(name, other))
        }
        return closest(array, others)

    def are_near(self, name: str, other: str) -> bool:
        """Whether two tensors have one size, and may hold the same numbers."""
        is_as_large = self.a.arrays[name].size == self.b.arrays[other].size
        return is_as_large and near(self._sums_a[name], self._sums_b[other])

    # ---- what is settled

    @property
    def taken_of_b(self) -> set[str]:
        """B's names that are settled, in whole or in part."""
        taken = {name for source in self.settled.values() for name in source.names}
        for of_both in self.sums.values():
            taken.update(name for term in of_both.b for name in term.names)
        return taken

    @property
    def taken_of_a(self) -> set[str]:
        """A's names that are settled, in whole or in part."""
        taken = set(self.settled)
        for of_both in self.sums.values():
            taken.update(name for term in of_both.a for name in term.names)
        return taken

    @property
    def open_a(self) -> list[str]:
        """A's names that are not settled, in the trace's order."""
        taken = self.taken_of_a
        return [name for name in self.a.arrays if name not in taken]

    @property
    def open_b(self) -> list[str]:
        """B's names that are not settled, in the trace's order."""
        taken = self.taken_of_b
        return [name for name in self.b.arrays if name not in taken]

    def settle(self, name: str, source: Source, reason: str) -> None:
        """Settle one of A's names."""
        self.settled[name] = source
        self.reasons[name] = reason

    # ---- what may be a counterpart

    def may_be(self, name: str, other: str) -> bool:
        """Whether kinds and roles of two tensors allow them to be each other's."""
        kinds = {self.a.kind(name), self.b.kind(other)} - {""}
        roles = {read_name(name).role, read_name(other).role} - {""}
        return len(kinds) < 2 and len(roles) < 2

    def modules_agree(self, name: str, other: str) -> bool:
        """Whether no tensor of either module is settled to be of a third module."""
        if not (self.a.has_modules and self.b.has_modules):
            return True
        module_a = read_name(name).module
        module_b = read_name(other).module
        if not module_a or not module_b:
            return True
        of_a, of_b = self.links
        return module_b in of_a.get(module_a, {module_b}) and module_a in of_b.get(
            module_b, {module_a}
        )

    @property
    def links(self) -> tuple[Modules, Modules]:
        """A's module -> the modules of B with counterparts of its tensors; and the other way."""
        if self._linked != len(self.settled):
            of_a: Modules = {}
            of_b: Modules = {}
            for name, source in self.settled.items():
                module = read_name(name).module
                for part in source.names:
                    of_a.setdefault(module, set()).add(read_name(part).module)
                    of_b.setdefault(read_name(part).module, set()).add(module)
            self._linked = len(self.settled)
            self._links = of_a, of_b
        return self._links

    def candidates(self) -> dict[str, Candidates]:
        """What may be the counterpart of each name that is not settled: what holds the same
        numbers, else what has its size.
        """
        free = set(self.open_b)
        candidates: dict[str, Candidates] = {}
        for name in self.open_a:
            live = [layout for layout in self.by_value[name] if layout.name in free]
            if name in self.constants:
                live = [layout for layout in live if self.modules_agree(name, layout.name)]
            candidates[name] = live or self._of_equal_size(name, free)
        return candidates

    def _of_equal_size(self, name: str, free: set[str]) -> Candidates:
        array = self.a.arrays[name]
        candidates: Candidates = []
        for other in self.b.arrays:
            value = self.b.arrays[other]
            if other not in free or value.size != array.size:
                continue
            if self.may_be(name, other) and self.modules_agree(name, other):
                candidates += distinct_layouts(array, other, value)
        return candidates

    def has_equal_values(self, name: str, live: Candidates) -> bool:
        """Whether the candidates of a name hold its numbers."""
        return bool(live) and live[0] in self.by_value[name]

    # ---- the rules

    def follow_values(self) -> bool:
        """Settle what the values settle, and what follows from that. Says whether there was any."""
        rules: tuple[tuple[str, Rule], ...] = (
            (VALUES, self._drawn),
            (BESIDE, self._beside),
            ("how it changes", self._changing),
            (VALUES, self._all),
            ("values and name", self._called),
        )
        return any(self._settle(reason, rule, by_value=True) for reason, rule in rules)

    def follow_shapes(self) -> bool:
        """Settle what has one candidate by its shape. Says whether there was any."""
        rules = ((BY_SHAPE, self._all), ("name and shape", self._called))
        return any(self._settle(reason, rule, by_value=False) for reason, rule in rules)

    def _settle(self, reason: str, rule: Rule, *, by_value: bool) -> bool:
        """Settle each name that a rule leaves one candidate, if that is left to no other name. Says
        whether there was one.
        """
        left: dict[str, Candidates] = {}
        for name, live in self.candidates().items():
            if live and self.has_equal_values(name, live) == by_value:
                left[name] = rule(name, live)
        sure = {name: live[0] for name, live in left.items() if len(live) == 1}
        wanted = [layout.name for layout in sure.values()]
        sure = {name: layout for name, layout in sure.items() if wanted.count(layout.name) == 1}
        if not by_value:
            rivals = {name: {layout.name for layout in live} for name, live in left.items()}
            sure = {
                name: layout
                for name, layout in sure.items()
                if not any(layout.name in rivals[rival] for rival in rivals if rival != name)
            }
        for name, layout in sure.items():
            self.settle(name, layout, reason)
        return bool(sure)

    def _all(self, name: str, live: Candidates) -> Candidates:
        return live

    def _drawn(self, name: str, live: Candidates) -> Candidates:
        """All candidates of a tensor whose numbers were drawn."""
        return [] if name in self.constants else live

    def _beside(self, name: str, live: Candidates) -> Candidates:
        """Candidates in the module whose other tensors are counterparts of those beside this
        one.
        """
        module = _module(name)
        beside = {
            _module(part)
            for other, source in self.settled.items()
            if _module(other) == module
            for part in source.names
        }
        near_ones = [layout for layout in live if _module(layout.name) in beside]
        if len(near_ones) == 1:
            return near_ones
        return [layout for layout in near_ones if _alike_roles(name, layout.name)]

    def _changing(self, name: str, live: Candidates) -> Candidates:
        """The candidate that changes as this one does, by far more alike than the next."""
        for changes_a, changes_b in self._changes:
            if name not in changes_a or not all(layout.name in changes_b for layout in live):
                continue
            change = changes_a[name]
            others = [layout.turn(changes_b[layout.name]) for layout in live]
            # as they are; and, as a fault may have scaled them all, by their directions
            distances = [distance(change, other) for other in others]
            turns = [distance(direction(change), direction(other)) for other in others]
            for by_candidate in (distances, turns):
                best, *rest = sorted(by_candidate)
                if best <= CLOSE and all(gap > 10 * max(best, UNLIKE) for gap in rest):
                    return [live[by_candidate.index(best)]]
        return []

    def _called(self, name: str, live: Candidates) -> Candidates:
        """The candidate of this very name, where its layout leaves no choice."""
        return [layout for layout in live if layout.name == name]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _alike_roles(name: str, other: str) -> bool:
    """Whether two names say the same role, or end alike."""
    a = read_name(name)
    b = read_name(other)
    return a.role == b.role if a.role and b.role else a.last == b.last
