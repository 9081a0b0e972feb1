"""Two benchmarks of the same workloads on the same machine: what became faster or slower, and what
is noise.
"""

import math
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from lockstep.bench.medians import ratio_interval, ratios, three_digits
from lockstep.bench.results import Measured, Results
from lockstep.errors import InputError

__all__ = ["Change", "changes", "print_changes"]

REFERENCE = "c"
"""Its time is divided out, round by round, where both files have it: the machine's own speed
changes too.
"""
SLACK = 1.05
"""Two runs of the same program may differ by so much for reasons that no interval within a run can
see.
"""
DOUBT = 0.05
"""The chance, over all contenders together, that what did not change is called slower or faster."""


@dataclass(frozen=True)
class Change:
    """By how much the new time is the old one, with an interval; and the verdict: faster, slower or
    noise.
    """

    workload: str
    contender: str
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Slower or faster only where the whole interval is beyond the slack."""
        if self.low > SLACK:
            return "slower"
        return "faster" if self.high < 1 / SLACK else "noise"


def changes(old: Results, new: Results) -> list[Change]:
    """Every contender that both timed.

    Raises:
        InputError: they are of other machines, of other workloads, or have no contender in common.
    """
    if old.machine != new.machine:
        named = next(
            name
            for name in old.machine | new.machine
            if old.machine.get(name) != new.machine.get(name)
        )
        raise InputError(
            f"--compare: machine.{named} is {old.machine.get(named)!r} in the first file and "
            f"{new.machine.get(named)!r} in the second: times of two machines do not compare"
        )
    if old.workloads.keys() != new.workloads.keys():
        raise InputError(
            f"--compare: the first file has {', '.join(old.workloads)} and the second "
            f"{', '.join(new.workloads)}"
        )
    pairs = []
    for name, before in old.workloads.items():
        after = new.workloads[name]
        for field in ("recipe", "seeds", "updates", "device", "threads"):
            if getattr(before, field) != getattr(after, field):
                raise InputError(f"--compare: {name}: {field} differs")
        both = [c for c, o in before.contenders.items() if o.samples and _timed(after, c)]
        pairs += [(name, contender, _samples(before, after, contender)) for contender in both]
    if not pairs:
        raise InputError("--compare: no contender was timed in both files")
    return [
        Change(name, contender, *ratio_interval(*samples, DOUBT / len(pairs)))
        for name, contender, samples in pairs
    ]


def _timed(measured: Measured, contender: str) -> bool:
    return contender in measured.contenders and bool(measured.contenders[contender].samples)


def _samples(before: Measured, after: Measured, contender: str) -> tuple[list[float], list[float]]:
    found = [measured.contenders[contender].samples for measured in (before, after)]
    if contender != REFERENCE and _timed(before, REFERENCE) and _timed(after, REFERENCE):
        over = [measured.contenders[REFERENCE].samples for measured in (before, after)]
        found = [ratios(*pair) for pair in zip(found, over)]
    return found[0], found[1]


def print_changes(found: list[Change], console: Console) -> int:
    """A row for each, and the exit status: 1 where one is slower."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("workload", "contender"):
        table.add_column(header, no_wrap=True)
    for header in ("new / old", "interval", "verdict"):
        table.add_column(header, justify="right", no_wrap=True)
    for change in found:
        interval = "too few rounds"
        if change.high < math.inf:
            interval = f"{three_digits(change.low)}-{three_digits(change.high)}"
        table.add_row(
            change.workload, change.contender, three_digits(change.ratio), interval, change.verdict
        )
    console.print(table)
    slower = [change for change in found if change.verdict == "slower"]
    console.print(
        f"{len(slower)} of {len(found)} slower. Times are over the C floor's of the same "
        "round where both have it; the "
        f"intervals together hold with {100 * (1 - DOUBT):g} %, and what lies within "
        f"{SLACK:g} times is noise.",
        highlight=False,
    )
    return 1 if slower else 0
