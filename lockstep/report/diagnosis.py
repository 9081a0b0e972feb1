"""A diagnosis in the terminal: what differs first, by how much, who is off, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from lockstep.diagnose.compare import Difference
from lockstep.diagnose.diagnosis import HORIZON, Diagnosis
from lockstep.numbers import factor
from lockstep.printable import printable
from lockstep.report.console import print_stages, print_verdict

__all__ = ["print_diagnosis"]

NAMED = 8  # updates in a list; more are counted
OFF = {
    "a": "a, and not b",
    "b": "b, and not a",
    "both": "both a and b: neither does what the recipe says",
    "": "neither: both are as near to the truth as rounding lets them be",
}


def print_diagnosis(
    found: Diagnosis,
    names: tuple[str, str],
    console: Console,
    *,
    notes: Sequence[str] = (),
    replayed: Mapping[str, bool] | None = None,
) -> None:
    """Settings that differ, the first divergence with its cause, and the worst of every stage.

    Args:
        found: the diagnosis.
        names: of the two sides.
        console: where to.
        notes: what to know beforehand.
        replayed: side -> whether training it again gave the same bits; None where nothing was
        trained again.
    """
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for side, name in zip("ab", names):
        rows.add_row(side, printable(name))
    for setting in found.unequal:
        said = [
            "not set" if value is None else printable(str(value))
            for value in (setting.a, setting.b)
        ]
        rows.add_row("differs", f"{printable(setting.name)}: {said[0]} and {said[1]}")
    for note in notes:
        rows.add_row("note", printable(note))
    for side, same in (replayed or {}).items():
        again = (
            "the same bits"
            if same
            else "other bits: another code or environment than when it was recorded"
        )
        rows.add_row("run again", f"{side}: {again}")
    for side, ratio in (found.noise or {}).items():
        rows.add_row(
            "noise", f"{side} against itself with one thread: error / bound {factor(ratio, 2)}"
        )
    console.print(rows)
    if found.first is not None:
        console.print("\nFirst divergence", style="bold")
        console.print(Padding(_first(found, found.first), (0, 0, 0, 2)))
    print_stages(found.comparison, ("a", "b"), console)
    if found.comparison.first is None:
        for side, comparison in found.against.items():
            if comparison.first is not None:
                print_stages(comparison, (side, "oracle"), console)
    if found.local:
        console.print(
            f"Every update began from the oracle's state: {_listed(found.local)} wrong by "
            "itself, and the others right."
        )
    if found.horizon is not None:
        console.print(
            f"From update {found.horizon} on two right runs may differ by more than "
            f"{HORIZON:.0%} of the loss: "
            "comparing trajectories says nothing there."
        )
    print_verdict(replace(found.comparison, verdict=found.verdict, limit=found.limit), console)


def _listed(updates: Sequence[int]) -> str:
    shown = ", ".join(map(str, updates[:NAMED]))
    more = f" and {len(updates) - NAMED} more" if len(updates) > NAMED else ""
    return f"update {shown} is" if len(updates) == 1 else f"each of updates {shown}{more} is"


def _first(found: Diagnosis, first: Difference) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("where", "before training" if first.update < 0 else f"update {first.update}")
    rows.add_row("stage", first.stage)
    for word, at in (("tensor", first), ("most in", found.most)):
        if at is not None:
            place = f"[{', '.join(map(str, at.element))}]" if at.element else ""
            beyond = f", {at.share:.0%} of its elements beyond the bound" if at.element else ""
            rows.add_row(word, printable(at.tensor + place) + beyond)
    rows.add_row("a", f"{first.a!r}")
    rows.add_row("b", f"{first.b!r}")
    if found.off == "both":
        rows.add_row("oracle", f"{found.truth!r}")
    times = factor(first.ratio, 3) if first.bound else "no difference is allowed here"
    rows.add_row("error / bound", times)
    if found.distances is not None:
        rows.add_row("off", OFF[found.off])
        rows.add_row(
            "",
            "error / bound against the oracle: a {}, b {}".format(
                *(factor(value, 2) for value in found.distances)
            ),
        )
    cause = found.cause
    if cause is None and found.needs:
        window = f"{found.needs[0]}:{found.needs[-1] + 1}"
        rows.add_row(
            "cause",
            f"is tested on detail, which these traces lack: --replay, or record --detail {window}",
        )
    elif cause is None:
        rows.add_row("cause", "none of the known ones explains these numbers")
    else:
        rows.add_row("cause", printable(cause.text), style="bold")
        rows.add_row(
            "",
            f"which gives its numbers to {cause.residual:.1e}; without it "
            f"{cause.null_residual:.1e}",
        )
        if cause.page:
            rows.add_row("read", f"lockstep atlas {cause.page}")
    return rows
