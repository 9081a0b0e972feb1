"""A name map drawn from two traces, right or wrong ones: what is sure of it, and what is left open.

Initial parameters that hold the same numbers, in whatever layout or in pieces, are each other's.
Where a wrong draw, a constant or a fault leaves a choice, kinds, roles, the tensors around it,
numbers, the order of calls and names decide; and where these do not, nothing is decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lockstep.diagnose.naming.cells import follow_cells
from lockstep.diagnose.naming.layouts import Layout
from lockstep.diagnose.naming.name_map import NameMap
from lockstep.diagnose.naming.outputs import propose_outputs
from lockstep.diagnose.naming.packed import (
    follow_names_of_packed,
    follow_weights,
    turn_with_weights,
)
from lockstep.diagnose.naming.pieces import follow_pieces, second_names
from lockstep.diagnose.naming.search import Search
from lockstep.diagnose.naming.sides import Side
from lockstep.diagnose.naming.stacks import follow_stacks
from lockstep.diagnose.naming.structure import Structure
from lockstep.errors import InputError
from lockstep.records.trace import Trace

__all__ = ["Proposal", "propose"]

NAMED = 5
"""Names in a message; more are counted."""
CANDIDATES = 8
"""Candidates in a line of the file; more are counted."""


@dataclass(frozen=True)
class Proposal:
    """A name map, and what it leaves open.

    Attributes:
        names: what is sure.
        reasons: A's name, or that of a sum -> what it is drawn from.
        open_a: A's names that are not settled -> B's names that may be their counterparts.
        open_b: B's names that are not settled.
    """

    names: NameMap
    reasons: Mapping[str, str]
    open_a: Mapping[str, tuple[str, ...]]
    open_b: tuple[str, ...]

    @property
    def remarks(self) -> list[str]:
        """What is open, as comments of the file."""
        if not self.open_a and not self.open_b:
            return []
        lines = ["Open: add a line for each under [names], or its name under [only]."]
        for name, candidates in self.open_a.items():
            if candidates:
                listed = " or ".join(map(_quoted, candidates[:CANDIDATES]))
                more = len(candidates) - CANDIDATES
                lines.append(f"{_quoted(name)} = {listed}{f' or {more} more' if more > 0 else ''}")
            else:
                lines.append(f"{_quoted(name)} of A: nothing in B is like it")
        lines += [f"{_quoted(name)} of B" for name in self.open_b]
        return lines


def propose(a: Trace, b: Trace, given: NameMap | None = None) -> Proposal:
    """The map of B's names to A's, what each of A's names is drawn from, and what is left open.

    Args:
        a: a trace with its initial parameters.
        b: the other.
        given: lines that are settled already.

    Raises:
        InputError: a trace without initial parameters, given names that a trace does not hold, or
            no name at all that has a counterpart.
    """
    given = given or NameMap()
    side_a = Side(a, given.only_a | given.same_a.keys())
    side_b = Side(b, given.only_b | given.same_b.keys())
    for trace in (a, b):
        if trace.shapes and not trace.parameters(0):
            raise InputError(
                f"names: the trace of {trace.backend} holds summaries of its initial parameters; "
                "record one update with every=1 and a budget_mib that holds it, and draw the names "
                "from that"
            )
    if not side_a.arrays or not side_b.arrays:
        raise InputError(
            "names: the traces need their initial parameters, and not summaries of them: call "
            "Recorder.start(parameters), and record one update with every=1"
        )
    given_of_b = {name for source in given.names.values() for name in source.names}
    _refuse_unknown("A", set(given.names), side_a)
    _refuse_unknown("B", given_of_b, side_b)
    search = Search(side_a, side_b, given.names)
    search.sums |= given.sums
    _run(search)
    if not search.settled and not search.sums:
        raise InputError(
            f"names: no parameter of {a.backend} is one of {b.backend}: {_listed(search.open_a)} "
            f"against {_listed(search.open_b)}"
        )
    return _proposal(search, given)


def _run(search: Search) -> None:
    """Settle what is certain, then what follows from it, until nothing more does."""
    rules = (
        search.follow_values,
        lambda: follow_pieces(search),
        lambda: follow_cells(search),
        lambda: follow_weights(search),
        lambda: Structure(search).settle(by_value=True),
        lambda: follow_stacks(search),
        lambda: follow_names_of_packed(search),
        search.follow_shapes,
        lambda: Structure(search).settle(by_value=False),
    )
    while any(rule() for rule in rules):
        pass
    turn_with_weights(search)


def _proposal(search: Search, given: NameMap) -> Proposal:
    arrays_a = search.a.arrays
    arrays_b = search.b.arrays
    settled_of_b = [name for name in arrays_b if name in search.taken_of_b]
    settled_of_a = [name for name in arrays_a if name in search.taken_of_a]
    same_a = dict(given.same_a) | second_names(arrays_a, search.open_a, settled_of_a)
    same_b = dict(given.same_b) | second_names(arrays_b, search.open_b, settled_of_b)
    open_a = [name for name in search.open_a if name not in same_a]
    open_b = [name for name in search.open_b if name not in same_b]
    only_a = given.only_a
    only_b = given.only_b
    if not open_b:  # nothing is left that could be their counterpart
        only_a, open_a = only_a | set(open_a), []
    elif not open_a:
        only_b, open_b = only_b | set(open_b), []
    names = replace(
        given,
        names=dict(sorted(search.settled.items())),
        sums=search.sums,
        same_a=same_a,
        same_b=same_b,
        only_a=frozenset(only_a),
        only_b=frozenset(only_b),
    )
    outputs = propose_outputs(search.a.trace, search.b.trace, names)
    candidates = search.candidates()
    return Proposal(
        replace(names, forward=outputs.forward, batch=outputs.batch),
        search.reasons,
        {name: _names_of(candidates[name]) for name in open_a},
        tuple(open_b),
    )


def _names_of(live: list[Layout]) -> tuple[str, ...]:
    return tuple(sorted({layout.name for layout in live}))


def _refuse_unknown(title: str, names: set[str], side: Side) -> None:
    unknown = sorted(names - side.arrays.keys())
    if unknown:
        raise InputError(f"names: settled already, but not in trace {title}: {_listed(unknown)}")


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:NAMED])
    return f"{text} and {len(names) - NAMED} more" if len(names) > NAMED else text


def _quoted(name: str) -> str:
    return '"' + name.replace("\n", " ") + '"'
