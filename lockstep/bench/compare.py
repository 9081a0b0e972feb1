"""Two benchmarks of the same workloads on one machine: what became faster or slower, and what is
noise.
"""

import math
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from lockstep.bench.intervals import ratio_interval, ratios, three_digits
from lockstep.bench.results import Measured, Results
from lockstep.errors import InputError
from lockstep.recipe import Recipe

__all__ = ["Change", "changes", "print_changes"]

REFERENCE = "c"
"""The contender whose time is divided out, round by round, where both files have it. The division
removes changes of the machine's own speed.
"""
SLACK = 1.05
"""How far two runs of one program may differ for reasons that no interval within a run can see."""
DOUBT = 0.05
"""The chance, over all contenders together, that an unchanged one is called slower or faster."""


@dataclass(frozen=True)
class Change:
    """The new time over the old one, with the interval that holds this ratio, and the verdict."""

    workload: str
    contender: str
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """slower or faster where the whole interval is beyond the slack, else noise."""
        if self.low > SLACK:
            return "slower"
        return "faster" if self.high < 1 / SLACK else "noise"


def changes(old: Results, new: Results) -> list[Change]:
    """The change of every contender that both benchmarks timed.

    Raises:
        InputError: the two differ in machine or workloads, or have no contender in common.
    """
    for name in old.machine | new.machine:
        if old.machine.get(name) != new.machine.get(name):
            raise InputError(
                f"--compare: machine.{name} is {old.machine.get(name)!r} in the first file and "
                f"{new.machine.get(name)!r} in the second: times of two machines do not compare"
            )
    if old.workloads.keys() != new.workloads.keys():
        raise InputError(
            f"--compare: the first file has {', '.join(old.workloads)} and the second "
            f"{', '.join(new.workloads)}"
        )
    pairs = []
    for name, before in old.workloads.items():
        after = new.workloads[name]
        if _recipe_of(name, before) != _recipe_of(name, after):
            raise InputError(f"--compare: {name}: recipe differs")
        for field in ("seeds", "updates", "device", "threads"):
            if getattr(before, field) != getattr(after, field):
                raise InputError(f"--compare: {name}: {field} differs")
        both = [c for c in before.contenders if _is_timed(before, c) and _is_timed(after, c)]
        pairs += [(name, contender, _samples(before, after, contender)) for contender in both]
    if not pairs:
        raise InputError("--compare: no contender was timed in both files")
    return [
        Change(name, contender, *ratio_interval(*samples, DOUBT / len(pairs)))
        for name, contender, samples in pairs
    ]


def _is_timed(measured: Measured, contender: str) -> bool:
    return contender in measured.contenders and bool(measured.contenders[contender].samples)


def _samples(before: Measured, after: Measured, contender: str) -> tuple[list[float], list[float]]:
    """The contender's samples in both, over those of the reference where both have it."""
    old = before.contenders[contender].samples
    new = after.contenders[contender].samples
    if contender != REFERENCE and _is_timed(before, REFERENCE) and _is_timed(after, REFERENCE):
        old = ratios(old, before.contenders[REFERENCE].samples)
        new = ratios(new, after.contenders[REFERENCE].samples)
    return old, new


def print_changes(changed: list[Change], console: Console) -> int:
    """Print a row for each change, and return the exit status: 1 where one is slower."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("workload", "contender"):
        table.add_column(header, no_wrap=True)
    for header in ("new / old", "interval", "verdict"):
        table.add_column(header, justify="right", no_wrap=True)
    for change in changed:
        interval = "too few rounds"
        if change.high < math.inf:
            interval = f"{three_digits(change.low)}-{three_digits(change.high)}"
        table.add_row(
            change.workload, change.contender, three_digits(change.ratio), interval, change.verdict
        )
    console.print(table)
    slower = [change for change in changed if change.verdict == "slower"]
    console.print(
        f"{len(slower)} of {len(changed)} slower. Times are over the C floor's of the same round "
        f"where both have it; the intervals together hold with {100 * (1 - DOUBT):g} %, and what "
        f"lies within {SLACK:g} times is noise.",
        highlight=False,
    )
    return 1 if slower else 0


def _recipe_of(workload: str, measured: Measured) -> Recipe:
    """The recipe of a workload; an older file also names the knobs that it does not have."""
    try:
        return Recipe.from_dict(measured.recipe)
    except InputError as error:
        raise InputError(f"--compare: {workload}: {error}") from None
