"""Write the folder: `repro.py` and `arrays.npz`."""

import io
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.diagnosis import Diagnosis
from lockstep.diagnose.sentences import describe_difference
from lockstep.files.outputs import NEW, check_folder, write_file
from lockstep.files.partial import new_folder
from lockstep.records.trace import Trace
from lockstep.report.repro.exhibit import STEP, Exhibit, exhibit_of
from lockstep.report.repro.recomputed import layer_code, loss_code, optimizer_code
from lockstep.version import __version__

__all__ = ["write_repro"]

MOST_SHOWN = 20
"""Arrays that the script prints a line for, the most different first; all are in the archive."""


def write_repro(
    place: Path, diagnosis: Diagnosis, a: Trace, b: Trace, names: tuple[str, str]
) -> Path:
    """Write a folder that shows where two traces part, without lockstep.

    Args:
        place: the folder to make; where it exists, the name gets a number.
        diagnosis: of the two traces.
        a: one trace.
        b: the other, in the names and layouts of `a`.
        names: what the sides are called.

    Returns:
        the folder that was made.

    Raises:
        InputError: the traces do not part, their tensors were not recorded there, or the folder
            cannot be written.
    """
    check_folder(place, option="--out")
    exhibit = exhibit_of(diagnosis, a, b)
    archive = io.BytesIO()
    arrays = _arrays(exhibit) | _of_cause(exhibit, diagnosis)
    np.savez_compressed(archive, allow_pickle=False, **arrays)
    script = "\n".join(_script(exhibit, diagnosis, (a, b), names)) + "\n"
    with new_folder(place) as folder:
        write_file(folder.partial / "arrays.npz", archive.getvalue(), NEW)
        write_file(folder.partial / "repro.py", script.encode(), NEW)
    return folder.final


def _arrays(exhibit: Exhibit) -> dict[str, NDArray[Any]]:
    """Name in the archive, "output|a|lin.weight", -> array."""
    arrays: dict[str, NDArray[Any]] = {}
    groups = [("input", exhibit.inputs), ("output", exhibit.outputs)]
    if exhibit.first.stage in STEP and exhibit.history is not None:
        steps = [*exhibit.history, exhibit.inputs]
        groups += [(f"step {update}", pairs) for update, pairs in enumerate(steps)]
        arrays["updates"] = np.array(len(steps))
    for kind, pairs in groups:
        for name, (of_a, of_b) in pairs.items():
            arrays[f"{kind}|a|{name}"] = of_a
            arrays[f"{kind}|b|{name}"] = of_b
    return arrays


def _of_cause(exhibit: Exhibit, diagnosis: Diagnosis) -> dict[str, NDArray[Any]]:
    """What the cause gives in place of a side's outputs: "cause|b|lin.weight"."""
    if diagnosis.cause is None:
        return {}
    return {
        f"cause|{place}": array
        for place, array in diagnosis.cause.predicted.items()
        if place.partition("|")[2] in exhibit.outputs
    }


def _script(
    exhibit: Exhibit, diagnosis: Diagnosis, traces: tuple[Trace, Trace], names: tuple[str, str]
) -> Iterator[str]:
    """The lines of the script. All that a trace says stands in it as an escaped literal."""
    yield f"# Written by lockstep {__version__}."
    yield files("lockstep.report.repro").joinpath("script.txt").read_text().rstrip()
    yield ""
    yield 'if __name__ == "__main__":'
    for line in _body(exhibit, diagnosis, traces, names):
        yield f"    {line}"


def _body(
    exhibit: Exhibit, diagnosis: Diagnosis, traces: tuple[Trace, Trace], names: tuple[str, str]
) -> Iterator[str]:
    first = exhibit.first
    for side, name, trace in zip("ab", names, traces):
        versions = trace.header.get("environment") or {}
        known = [f"{key} {versions[key]}" for key in ("torch", "jax", "optax") if versions.get(key)]
        yield f"print({', '.join([f'{side}: {name}', *known])!a})"
    yield f"print({f'They part {describe_difference(first)}.'!a})"
    for cause in (diagnosis.cause, *diagnosis.further):
        if cause is not None:
            yield f"print({f'Cause: {cause.text}.'!a})"
    if exhibit.inputs:
        yield 'print("What both sides read there:")'
        yield from _shown("input", exhibit.inputs)
    yield 'print("What they give:")'
    yield from _shown("output", exhibit.outputs)
    by_cause = _of_cause(exhibit, diagnosis)
    if by_cause:
        yield 'print("What the cause would give:")'
    for place in list(by_cause)[:MOST_SHOWN]:
        _, side, name = place.split("|", 2)
        yield f"by_cause({side!r}, {name!r})"
    again = _again(exhibit, traces)
    if again:
        yield 'print("Computed again:")'
        yield from again


def _shown(kind: str, pairs: dict[str, tuple[NDArray[Any], NDArray[Any]]]) -> Iterator[str]:
    order = sorted(pairs, key=lambda name: np.array_equal(*pairs[name], equal_nan=False))
    for name in order[:MOST_SHOWN]:
        yield f"show({kind!r}, {name!a})"
    if len(order) > MOST_SHOWN:
        text = f"  and {len(order) - MOST_SHOWN} more in arrays.npz"
        yield f"print({text!r})"


def _again(exhibit: Exhibit, traces: tuple[Trace, Trace]) -> list[str]:
    first = exhibit.first
    if first.stage == "loss":
        return loss_code({name: of_a for name, (of_a, _) in exhibit.inputs.items()})
    lines: list[str] = []
    for side, trace in zip("ab", traces):
        if first.stage == "forward":
            lines += layer_code(trace, side, first, exhibit.inputs)
        elif first.stage in STEP and exhibit.history is not None:
            lines += optimizer_code(trace, side)
    return lines
