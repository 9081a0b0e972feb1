"""Two traces of loops that are not ours, made comparable: the same names, layouts and updates, or
one line why not.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lockstep.diagnose.names import NameMap, apply, split_name
from lockstep.errors import InputError
from lockstep.own_loops.detail_budget import note_on_budget
from lockstep.records.trace import Trace

__all__ = ["align", "is_loop", "notes_on", "sides_of"]

NAMED = 5  # names in a message; more are counted


def is_loop(trace: Trace) -> bool:
    """Whether a trace is of somebody's own loop, as `lockstep.Recorder` writes it."""
    return trace.header.get("kind") == "loop"


def align(a: Trace, b: Trace, names: NameMap | None = None) -> tuple[Trace, Trace]:
    """Both traces as `compare` takes them: B in A's names and layouts, and each without the names
    that the map says only that side has.

    Raises:
        InputError: a recipe's trace beside a loop's, a perturbed run, other numbers of updates,
            parameters that only one side has, shapes that differ, or no array in common.
    """
    kinds = [("a loop" if is_loop(trace) else "a recipe") for trace in (a, b)]
    if kinds != ["a loop", "a loop"]:
        raise InputError(f"traces of {kinds[0]} and of {kinds[1]}: cannot be compared")
    for trace in (a, b):
        if trace.header["recording"]["perturb"] is not None:
            raise InputError(
                f"the trace of {trace.backend} has a perturbed start: it tells noise, give it as "
                "--noise"
            )
    names = names or NameMap()
    b = apply(names, b)
    a = _without(a, names.only_a)
    if a.header["updates"] != b.header["updates"]:
        raise InputError(
            f"{a.header['updates']} updates and {b.header['updates']}: record as many of both loops"
        )
    _refuse_other_parameters(a, b)
    common = [key for key in a.arrays if key in b.arrays and not key.startswith("operations/")]
    if not common:
        raise InputError("the traces have no array in common: nothing to compare")
    for key in common:
        if key.startswith("statistics/"):  # as far as both budgets went
            rows = min(len(a.arrays[key]), len(b.arrays[key]))
            a.arrays[key] = a.arrays[key][:rows]
            b.arrays[key] = b.arrays[key][:rows]
    for key in sorted(common, key=lambda key: (not key.startswith("parameters/"), key)):
        if a.arrays[key].shape != b.arrays[key].shape:
            raise InputError(
                f"{key}: shapes differ, {a.arrays[key].shape} and {b.arrays[key].shape}"
            )
    return a, b


def _without(trace: Trace, names: frozenset[str]) -> Trace:
    """The trace without every array of these tensors."""
    arrays = {key: array for key, array in trace.arrays.items() if split_name(key)[2] not in names}
    return Trace(trace.header, arrays)


def _refuse_other_parameters(a: Trace, b: Trace) -> None:
    """Raise InputError unless both hold the same parameters, or one holds none."""
    names_a = set(a.parameters(0))
    names_b = set(b.parameters(0))
    if not names_a or not names_b:
        return
    alone = {"A": names_a - names_b, "B": names_b - names_a}
    faults = [f"only in {side}: {_listed(names)}" for side, names in alone.items() if names]
    if faults:
        raise InputError(
            f"parameters {'; '.join(faults)}; say which is which with `lockstep names A B --out "
            "names.toml`, then compare with --names"
        )


def notes_on(a: Trace, b: Trace) -> list[str]:
    """Notes to read before the numbers of two aligned traces are compared: arrays that are not
    finite, and arrays that only one of them has, so that they are not compared.
    """
    notes = []
    for trace in (a, b):
        when = _not_finite(trace)
        if when:
            notes.append(f"{trace.backend}: NaN or infinity from {when} on")
    for trace in (a, b):
        recording = trace.header["recording"]
        note = note_on_budget(recording.get("bytes_of_update", 0), recording["budget_mib"])
        if note and not trace.header["detail"]:
            notes.append(f"{trace.backend}: {note}")
    notes += _notes_on_what_only(a, b)
    notes += _notes_on_what_only(b, a)
    return notes


def _notes_on_what_only(trace: Trace, other: Trace) -> Iterator[str]:
    """A note for each family of which a trace has tensors that the other lacks."""
    tensors = {split_name(key)[1:] for key in trace.arrays}
    others = {split_name(key)[1:] for key in other.arrays}
    known_families = {family for family, _ in others}
    alone: dict[str, set[str]] = {}
    for family, name in tensors - others:
        alone.setdefault(family, set()).add(name)
    for family, names in sorted(alone.items()):
        text = f"only {trace.backend} has {family}"
        yield f"{text} of {_listed(names)}" if family in known_families else text


def sides_of(
    noise: Sequence[Trace], a: Trace, b: Trace, names: NameMap | None = None
) -> list[list[Trace]]:
    """Runs that tell noise, by the side that they are of, in A's names.

    The traces that are compared are not among them: a run of an older version of the loop then
    cannot widen the bounds by what has changed.

    Args:
        noise: reruns and perturbed runs, of either side.
        a: as it was recorded.
        b: likewise.
        names: the map of B's names to A's.

    Raises:
        InputError: a run that is of neither side, or the only one of its side.
    """
    of_a: list[Trace] = []
    of_b: list[Trace] = []
    for trace in noise:
        if _is_run_of(trace, a):
            of_a.append(trace)
        elif _is_run_of(trace, b):
            of_b.append(trace)
        else:
            raise InputError(
                f"noise: a run of {trace.backend}, of neither {a.backend} nor {b.backend} by its "
                "names"
            )
    for side, runs in ((a, of_a), (b, of_b)):
        if len(runs) == 1:
            raise InputError(
                f"noise: one run of {side.backend} tells nothing; give two or more, with other "
                "seeds"
            )
    of_b = [apply(names or NameMap(), trace) for trace in of_b]
    return [runs for runs in (of_a, of_b) if runs]


def _is_run_of(trace: Trace, side: Trace) -> bool:
    """Whether a trace is of the same loop as a side, by its framework and names."""
    return (
        is_loop(trace)
        and trace.backend == side.backend
        and trace.parameters(0).keys() == side.parameters(0).keys()
    )


def _not_finite(trace: Trace) -> str:
    """The first update that is not finite, in words; "" for none."""
    places = []
    for key, array in trace.arrays.items():
        if np.isfinite(array).all():
            continue
        kind, _, rest = key.partition("/")
        if kind == "updates":
            places.append((int((~np.isfinite(array)).argmax()), rest))
        elif kind in ("parameters", "detail"):
            number, _, tensor = rest.partition("/")
            places.append((int(number) - (kind == "parameters"), tensor))
    if not places:
        return ""
    update, tensor = min(places)
    return f"update {update}, {tensor}" if update >= 0 else f"the start, {tensor}"


def _listed(names: set[str]) -> str:
    text = ", ".join(sorted(names)[:NAMED])
    return f"{text} and {len(names) - NAMED} more" if len(names) > NAMED else text
