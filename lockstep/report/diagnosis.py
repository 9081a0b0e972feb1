"""A diagnosis in the terminal: what differs first, by how much, who is off, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from lockstep.diagnose.causes import Cause
from lockstep.diagnose.compare import Difference
from lockstep.diagnose.diagnosis import HORIZON, Diagnosis
from lockstep.numbers import factor
from lockstep.printable import printable
from lockstep.report.console import print_stages, print_verdict

__all__ = ["print_diagnosis"]

NAMED = 8
"""How many updates, or things tried, a list names; more are counted or left out."""
OFF = {
    "a": "a, and not b",
    "b": "b, and not a",
    "both": "both a and b: neither does what the recipe says",
    "": "neither: both are as near to the truth as rounding lets them be",
}


def print_diagnosis(
    diagnosis: Diagnosis,
    names: tuple[str, str],
    console: Console,
    *,
    notes: Sequence[str] = (),
    replayed: Mapping[str, bool] | None = None,
) -> None:
    """Print settings that differ, the first divergence with its cause, and each stage's worst.

    Args:
        diagnosis: what to print.
        names: the names of the two sides.
        console: where to print.
        notes: remarks to print first.
        replayed: side -> whether training it again gave the same bits; None where nothing was
            trained again.
    """
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for side, name in zip("ab", names):
        rows.add_row(side, printable(name))
    for setting in diagnosis.unequal:
        values = f"{_setting(setting.a)} and {_setting(setting.b)}"
        rows.add_row("differs", f"{printable(setting.name)}: {values}")
    for note in notes:
        rows.add_row("note", printable(note))
    for side, same in (replayed or {}).items():
        bits = "the same bits"
        if not same:
            bits = "other bits: another code or environment than when it was recorded"
        rows.add_row("run again", f"{side}: {bits}")
    for side, ratio in (diagnosis.noise or {}).items():
        rows.add_row(
            "noise", f"{side} against itself with one thread: error / bound {factor(ratio, 2)}"
        )
    console.print(rows)
    if diagnosis.first is not None:
        console.print("\nFirst divergence", style="bold")
        console.print(Padding(_first(diagnosis, diagnosis.first), (0, 0, 0, 2)))
    print_stages(diagnosis.comparison, ("a", "b"), console)
    if diagnosis.comparison.first is None:
        for side, comparison in diagnosis.against.items():
            if comparison.first is not None:
                print_stages(comparison, (side, "oracle"), console)
    if diagnosis.local:
        console.print(
            f"Every update began from the oracle's state: {_listed(diagnosis.local)} wrong by "
            "itself, and the others right."
        )
    if diagnosis.horizon is not None:
        console.print(
            f"From update {diagnosis.horizon} on two right runs may differ by more than "
            f"{HORIZON:.0%} of the loss: comparing trajectories says nothing there."
        )
    comparison = replace(diagnosis.comparison, verdict=diagnosis.verdict, limit=diagnosis.limit)
    print_verdict(comparison, console)


def _setting(value: Any) -> str:
    return "not set" if value is None else printable(str(value))


def _listed(updates: Sequence[int]) -> str:
    """ "update 3 is", or "each of updates 3, 4 and 5 more is"."""
    if len(updates) == 1:
        return f"update {updates[0]} is"
    names = ", ".join(map(str, updates[:NAMED]))
    more = f" and {len(updates) - NAMED} more" if len(updates) > NAMED else ""
    return f"each of updates {names}{more} is"


def _first(diagnosis: Diagnosis, first: Difference) -> Table:
    """The first divergence: where it is, by how much, who is off, and the cause."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("where", "before training" if first.update < 0 else f"update {first.update}")
    rows.add_row("stage", first.stage)
    for word, at in (("tensor", first), ("most in", diagnosis.most)):
        if at is not None:
            place = f"[{', '.join(map(str, at.element))}]" if at.element else ""
            beyond = f", {at.share:.0%} of its elements beyond the bound" if at.element else ""
            quantity = f": {at.quantity}" if at.quantity else ""
            rows.add_row(word, printable(at.tensor + place) + beyond + quantity)
    if diagnosis.skipped:
        rows.add_row("", printable(f"not compared before it: {diagnosis.skipped}"))
    rows.add_row("a", f"{first.a!r}")
    rows.add_row("b", f"{first.b!r}")
    if diagnosis.off == "both":
        rows.add_row("oracle", f"{diagnosis.truth!r}")
    times = factor(first.ratio, 3) if first.bound else "no difference is allowed here"
    rows.add_row("error / bound", times)
    if diagnosis.distances is not None:
        rows.add_row("off", OFF[diagnosis.off])
        a, b = (factor(distance, 2) for distance in diagnosis.distances)
        rows.add_row("", f"error / bound against the oracle: a {a}, b {b}")
    if diagnosis.operation is not None:
        rows.add_row("first operation", printable(diagnosis.operation.text))
    elif diagnosis.advice and not diagnosis.to_record:
        rows.add_row("operations", diagnosis.advice)
    _add_cause(rows, diagnosis)
    return rows


def _add_cause(rows: Table, diagnosis: Diagnosis) -> None:
    cause = diagnosis.cause
    if cause is None and diagnosis.needs and not diagnosis.to_record:
        window = f"{diagnosis.needs[0]}:{diagnosis.needs[-1] + 1}"
        rows.add_row(
            "cause",
            f"is tested on detail, which these traces lack: --replay, or record --detail {window}",
        )
    elif cause is None:
        rows.add_row("cause", "none of the known ones explains these numbers")
        for place, tried in enumerate(diagnosis.ruled_out[:NAMED]):
            text = f"{tried.idea}: leaves {tried.residual:.1e}"
            rows.add_row("" if place else "ruled out", printable(text))
        for place, advice in enumerate(diagnosis.to_record):
            rows.add_row("" if place else "record", printable(advice))
    else:
        _add_evidence(rows, "cause", cause)
    for further in diagnosis.further:
        when = "before training" if further.update < 0 else f"update {further.update}"
        rows.add_row("", "")
        _add_evidence(rows, "and", further)
        words = ", ".join(filter(None, (when, further.stage, further.tensor)))
        rows.add_row("", printable(f"at {words}"))


def _add_evidence(rows: Table, word: str, cause: Cause) -> None:
    """A cause, what speaks for it, its lines of source and its page."""
    rows.add_row(word, printable(cause.text), style="bold")
    evidence = cause.evidence
    if not evidence:
        evidence = (
            f"gives its numbers to {cause.residual:.1e}; without it {cause.null_residual:.1e}"
        )
    rows.add_row("", printable(evidence))
    if cause.runner_up:
        word = "it could as well be" if cause.is_open else "next best"
        text = f"{word}, {cause.runner_up_residual:.1e}: {cause.runner_up}"
        rows.add_row("", printable(text))
    for side, lines in cause.lines.items():
        rows.add_row(f"{side}'s line", printable(", ".join(lines)))
    if cause.page:
        rows.add_row("read", f"lockstep atlas {cause.page}")
