"""Two traces of loops that are not ours, made comparable: the same names, layouts and updates, or
one line why not.
"""

from collections.abc import Sequence

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
    """Both traces as `compare` takes them: B in A's names and layouts, both without what the map
    says only one has.

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
                f"the trace of {trace.backend} has a perturbed start: it tells noise, give "
                "it as --noise"
            )
    names = names or NameMap()
    b = apply(names, b)
    a = Trace(
        a.header,
        {key: array for key, array in a.arrays.items() if split_name(key)[2] not in names.only_a},
    )
    if a.header["updates"] != b.header["updates"]:
        raise InputError(
            f"{a.header['updates']} updates and {b.header['updates']}: record as many of both loops"
        )
    known = [set(trace.parameters(0)) for trace in (a, b)]
    alone = {"A": known[0] - known[1], "B": known[1] - known[0]}
    faults = [f"only in {side}: {_listed(names)}" for side, names in alone.items() if names]
    if all(known) and faults:
        raise InputError(
            f"parameters {'; '.join(faults)}; say which is which with `lockstep names A B "
            "--out names.toml`, "
            "then compare with --names"
        )
    common = [key for key in a.arrays if key in b.arrays]
    for key in common:
        if key.startswith("statistics/"):  # as far as both budgets went
            rows = min(len(a.arrays[key]), len(b.arrays[key]))
            a.arrays[key], b.arrays[key] = a.arrays[key][:rows], b.arrays[key][:rows]
    if not common:
        raise InputError("the traces have no array in common: nothing to compare")
    for key in sorted(common, key=lambda key: (not key.startswith("parameters/"), key)):
        if a.arrays[key].shape != b.arrays[key].shape:
            raise InputError(
                f"{key}: shapes differ, {a.arrays[key].shape} and {b.arrays[key].shape}"
            )
    return a, b


def notes_on(a: Trace, b: Trace) -> list[str]:
    """What to know of two aligned traces before their numbers are compared: what is not finite, and
    what only one of them has, so that it is not compared."""
    found = [
        f"{trace.backend}: NaN or infinity from {when} on"
        for trace in (a, b)
        if (when := _not_finite(trace))
    ]
    for trace in (a, b):
        recording = trace.header["recording"]
        note = note_on_budget(recording.get("bytes_of_update", 0), recording["budget_mib"])
        found += [f"{trace.backend}: {note}"] if note and not trace.header["detail"] else []
    for trace, other in ((a, b), (b, a)):
        alone = {split_name(key)[1:] for key in trace.arrays} - {
            split_name(key)[1:] for key in other.arrays
        }
        for family in sorted({family for family, _ in alone}):
            names = {name for kind, name in alone if kind == family}
            whole = all(kind != family for kind, _ in (split_name(key)[1:] for key in other.arrays))
            found.append(
                f"only {trace.backend} has {family}" + ("" if whole else f" of {_listed(names)}")
            )
    return found


def sides_of(
    noise: Sequence[Trace], a: Trace, b: Trace, names: NameMap | None = None
) -> list[list[Trace]]:
    """Runs that tell noise, by the side that they are of, in A's names. The traces that are
    compared are none of them: a run of an older version of the loop then cannot widen the bounds by
    what has changed.

    Args:
        noise: reruns and perturbed runs, of either side.
        a: as it was recorded.
        b: likewise.
        names: the map of B's names to A's.

    Raises:
        InputError: a run that is of neither side, or the only one of its side.
    """
    sides: list[list[Trace]] = [[], []]
    for trace in noise:
        fits = [
            is_loop(trace)
            and trace.backend == side.backend
            and trace.parameters(0).keys() == side.parameters(0).keys()
            for side in (a, b)
        ]
        if not any(fits):
            raise InputError(
                f"noise: a run of {trace.backend}, of neither {a.backend} nor {b.backend} "
                "by its names"
            )
        sides[fits.index(True)].append(trace)
    for side, runs in zip((a, b), sides):
        if len(runs) == 1:
            raise InputError(
                f"noise: one run of {side.backend} tells nothing; give two or more, with "
                "other seeds"
            )
    turned = [sides[0], [apply(names or NameMap(), trace) for trace in sides[1]]]
    return [runs for runs in turned if runs]


def _not_finite(trace: Trace) -> str:
    """The first update that is not finite, in words; "" for none."""
    found = []
    for key, array in trace.arrays.items():
        if np.isfinite(array).all():
            continue
        kind, _, rest = key.partition("/")
        if kind == "updates":
            found.append((int((~np.isfinite(array)).argmax()), rest))
        elif kind in ("parameters", "detail"):
            at, _, tensor = rest.partition("/")
            found.append((int(at) - (kind == "parameters"), tensor))
    first = min(found, default=None)
    return (
        ""
        if first is None
        else f"update {first[0]}, {first[1]}"
        if first[0] >= 0
        else f"the start, {first[1]}"
    )


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:NAMED]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
