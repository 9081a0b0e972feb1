"""Two traces of loops that are not ours, made comparable: the same names, layouts and updates, or
one line why not.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lockstep.diagnose.local.layer_order import order_of_layers
from lockstep.diagnose.names import Layout, NameMap, apply, reduced, split_name
from lockstep.diagnose.naming.norms import with_common_norms
from lockstep.diagnose.set_aside import UNCOMPARED, keep_set_aside
from lockstep.diagnose.summaries import complete_summaries
from lockstep.diagnose.without_effect import outputs_without_effect
from lockstep.errors import InputError
from lockstep.own_loops.detail_budget import note_on_budget
from lockstep.records.trace import Trace

__all__ = ["align", "is_loop", "notes_on", "sides_of"]

NAMED = 5  # names in a message; more are counted


def is_loop(trace: Trace) -> bool:
    """Whether a trace is of somebody's own loop, as `lockstep.Recorder` writes it."""
    return trace.header.get("kind") == "loop"


def align(a: Trace, b: Trace, names: NameMap | None = None) -> tuple[Trace, Trace]:
    """Both traces as `compare` takes them: B in A's names and layouts, and each without what the
    map says cannot be compared.

    An array that has other shapes on both sides is left out, with a note; a batch of other rows is
    compared. Norms are over what both sides have.

    Raises:
        InputError: a recipe's trace beside a loop's, a perturbed run, other numbers of updates,
            parameters that only one side has, or of other shapes, or no array in common.
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
    notes = [*_notes_on_map(a, b, names), *_untied(a, names.same_a), *_untied(b, names.same_b)]
    of_a, of_b = a, b
    a = _copied(reduced(names, a))
    b = _copied(apply(names, b))
    if a.header["updates"] != b.header["updates"]:
        raise InputError(
            f"{a.header['updates']} updates and {b.header['updates']}: record as many of both loops"
        )
    _refuse_other_parameters(a, b)
    _refuse_other_shapes(a, b)
    uncompared = complete_summaries(a, b)
    if uncompared:
        notes.append(f"sketches of {_listed(uncompared)}: not compared, as the layouts differ")
    b = _laid_out_as_others(a, b, names)
    notes += _left_out_by_shape(a, b)
    notes += _left_out_without_effect(a, b)
    notes += [*_without_gradient(a, b), *_without_gradient(b, a)]
    a, b, notes_on_norms = with_common_norms(a, b, names)
    keep_set_aside(a, b, of_a, of_b, names)
    listed = list(b.header.get("layers", []))
    a.header["layers"] = order_of_layers(a, b)
    if listed == sorted(listed) and set(listed) == set(a.header["layers"]):
        b.header["layers"] = list(a.header["layers"])
    if not any(key in b.arrays for key in a.arrays if not key.startswith("operations/")):
        raise InputError("the traces have no array in common: nothing to compare")
    a.header["alignment"] = {"notes": notes + notes_on_norms}
    for key in a.arrays.keys() & b.arrays.keys():
        if key.startswith(("statistics/", "sketches/")):  # as far as both budgets went
            rows = min(len(a.arrays[key]), len(b.arrays[key]))
            a.arrays[key] = a.arrays[key][:rows]
            b.arrays[key] = b.arrays[key][:rows]
    return a, b


def _copied(trace: Trace) -> Trace:
    """The trace with a header and a table of arrays of its own, which can be changed."""
    return Trace(dict(trace.header), dict(trace.arrays))


def _notes_on_map(a: Trace, b: Trace, names: NameMap) -> Iterator[str]:
    """Notes on the parameters that the map leaves out, and on those whose sums it compares."""
    for trace, alone in ((a, names.only_a), (b, names.only_b)):
        held = alone & trace.parameters(0).keys()
        if held:
            yield f"only {trace.backend} has {_listed(set(held))}: not compared, as the map says"
    for label, of_both in names.sums.items():
        if len(of_both.a) != len(of_both.b):
            side = a if len(of_both.a) > len(of_both.b) else b
            yield (
                f"{label}: {side.backend} trains each of these, so that their sum moves further "
                "than where it is one"
            )


def _untied(trace: Trace, copies: Mapping[str, Layout]) -> Iterator[str]:
    """A note for each second name whose tensor does not stay what it stands for."""
    for name, original in copies.items():
        for update in trace.recorded_updates:
            parameters = trace.parameters(update)
            if name not in parameters or original.name not in parameters:
                continue
            if not np.array_equal(parameters[name], original.take(parameters), equal_nan=True):
                when = f"after {update} updates" if update else "from the start"
                yield (
                    f"{trace.backend}: {name} and {original.name} are not tied: they differ {when}"
                )
                break


def _refuse_other_parameters(a: Trace, b: Trace) -> None:
    """Raise InputError unless both hold the same parameters, or one holds none."""
    names_a = _parameter_names(a)
    names_b = _parameter_names(b)
    if not names_a or not names_b:
        return
    alone = {"A": names_a - names_b, "B": names_b - names_a}
    faults = [f"only in {side}: {_listed(names)}" for side, names in alone.items() if names]
    if faults:
        raise InputError(
            f"parameters {'; '.join(faults)}; say which is which with `lockstep names A B --out "
            "names.toml`, then compare with --names"
        )


def _parameter_names(trace: Trace) -> set[str]:
    """The names of the parameters, where they or what is left of them were recorded."""
    is_recorded = any(key.startswith(("parameters/0/", "summaries/0/")) for key in trace.arrays)
    return set(trace.shapes) if is_recorded else set()


def _refuse_other_shapes(a: Trace, b: Trace) -> None:
    """Raise InputError where parameters have other shapes."""
    other: dict[str, str] = {}
    for name in a.shapes.keys() & b.shapes.keys():
        if a.shapes[name] != b.shapes[name]:
            other[name] = f"{name}: {a.shapes[name]} and {b.shapes[name]}"
    for key in a.arrays.keys() & b.arrays.keys():
        prefix, family, name = split_name(key)
        shapes = a.arrays[key].shape, b.arrays[key].shape
        if family == "parameters" and prefix.startswith("parameters/") and shapes[0] != shapes[1]:
            other[name] = f"{name}: {shapes[0]} and {shapes[1]}"
    if other:
        named = [other[name] for name in sorted(other)[:NAMED]]
        more = f"; and {len(other) - NAMED} more" if len(other) > NAMED else ""
        raise InputError(f"parameters whose shapes differ: {'; '.join(named)}{more}")


def _laid_out_as_others(a: Trace, b: Trace, names: NameMap) -> Trace:
    """B with the outputs and batches that the map does not name, and whose shapes differ, laid out
    as the map lays out all others with as many axes, where this gives A's shape.
    """
    orders: dict[int, set[tuple[int, ...]]] = {}
    for layout in (*names.forward.values(), *names.batch.values()):
        if layout.axes and layout.is_plain:
            orders.setdefault(len(layout.axes), set()).add(layout.axes)
    arrays = dict(b.arrays)
    for key, array in b.arrays.items():
        prefix, family, name = split_name(key)
        if family not in ("forward", "batch") or not prefix.startswith("detail/"):
            continue
        is_named = name in getattr(names, family)
        axes = orders.get(array.ndim, set())
        if is_named or len(axes) != 1 or key not in a.arrays:
            continue
        turned = array.transpose(*axes)
        if array.shape != a.arrays[key].shape == turned.shape:
            arrays[key] = turned
    return Trace(b.header, arrays)


def _left_out_without_effect(a: Trace, b: Trace) -> list[str]:
    """Take outputs that the sides mean otherwise from both traces, and say so."""
    names = set(outputs_without_effect(a, b))
    for trace in (a, b):
        for key in list(trace.arrays):
            prefix, family, name = split_name(key)
            is_judged = prefix.startswith(("detail/", "statistics/", "sketches/"))
            if is_judged and f"{family}/{name}" in names:
                del trace.arrays[key]
    if not names:
        return []
    layers = {name.partition("/")[2] for name in names}
    return [
        f"forward of {_listed(layers)}: not compared: they differ widely, and neither loss nor "
        "gradients do, so that the sides record other tensors by one name"
    ]


def _left_out_by_shape(a: Trace, b: Trace) -> list[str]:
    """Take what was recorded under other shapes from both traces, but for the rows of a batch; and
    say so.
    """
    other: dict[str, dict[str, str]] = {}
    for key in a.arrays.keys() & b.arrays.keys():
        prefix, family, name = split_name(key)
        shape_a = a.arrays[key].shape
        shape_b = b.arrays[key].shape
        is_as_wide = len(shape_a) == len(shape_b) and shape_a[1:] == shape_b[1:]
        if not prefix.startswith("detail/") or shape_a == shape_b:
            continue
        if family == "batch" and is_as_wide:  # rows that one side lacks are a divergence
            continue
        other.setdefault(family, {}).setdefault(name, f"{shape_a} and {shape_b}")
    for trace in (a, b):
        for key in list(trace.arrays):
            prefix, family, name = split_name(key)
            is_judged = prefix.startswith(("detail/", "statistics/", "sketches/"))
            if is_judged and name in other.get(family, {}):
                del trace.arrays[key]
    notes = []
    for family, shapes in sorted(other.items()):
        first = min(shapes)
        notes.append(
            f"{family} of {_listed(set(shapes))}: not compared, as the shapes differ: "
            f"{shapes[first]} of {first}"
        )
    return notes


def _without_gradient(trace: Trace, other: Trace) -> Iterator[str]:
    """Give a trace gradients of 0 for parameters that never move and of which only the other side
    has any: they are frozen, or no part of its graph. Yield a note on them.
    """
    still: set[str] = set()
    for key, array in other.arrays.items():
        prefix, family, name = split_name(key)
        if family not in ("gradients", "clip") or key in trace.arrays:
            continue
        update = prefix.split("/")[1] if prefix.startswith("detail/") else ""
        has_others = any(known.startswith(f"detail/{update}/{family}/") for known in trace.arrays)
        if update and has_others and (name in still or _stays(trace, name)):
            still.add(name)
            trace.arrays[key] = np.zeros_like(array)
    if still:
        ordered = sorted(trace.arrays.items())  # as files hold them
        trace.arrays.clear()
        trace.arrays.update(ordered)
        yield f"{trace.backend}: no gradient of {_listed(still)}: it is taken for 0, as they stay"


def _stays(trace: Trace, name: str) -> bool:
    """Whether a parameter has one value in all states that were recorded, two at least."""
    states = [
        trace.arrays[f"parameters/{update}/{name}"]
        for update in trace.recorded_updates
        if f"parameters/{update}/{name}" in trace.arrays
    ]
    return len(states) > 1 and all(np.array_equal(state, states[0]) for state in states[1:])


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
    notes += a.header.get("alignment", {}).get("notes", [])
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
    alone.pop(UNCOMPARED, None)  # the notes on the map tell of it
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
    names = names or NameMap()
    of_a = [reduced(names, trace) for trace in of_a]
    of_b = [apply(names, trace) for trace in of_b]
    return [runs for runs in (of_a, of_b) if runs]


def _is_run_of(trace: Trace, side: Trace) -> bool:
    """Whether a trace is of the same loop as a side, by its framework and names."""
    return (
        is_loop(trace)
        and trace.backend == side.backend
        and trace.shapes.keys() == side.shapes.keys()
    )


def _not_finite(trace: Trace) -> str:
    """The first update that is not finite, in words; "" for none. Masked scores are meant."""
    places = []
    for key, array in trace.arrays.items():
        is_masked = np.isneginf(array) if split_name(key)[1] == "forward" else False
        if (np.isfinite(array) | is_masked).all():
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
