"""Progress bars while something trains."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from lockstep.report.console import PlainConsole

__all__ = ["training_progress"]

Report = Callable[[str, int, int], None]
"""Takes a backend, how many updates it has taken, and how many there are."""


@contextmanager
def training_progress(unit: str = "updates") -> Iterator[Report]:
    """A function that moves a bar for each backend, on standard error.

    It prints nothing where standard error is no terminal.
    """
    columns = (
        TextColumn("{task.description:7}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    console = PlainConsole(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, TaskID] = {}

        def report(backend: str, completed: int, total: int) -> None:
            if backend not in tasks:
                tasks[backend] = bars.add_task(backend, total=total)
            bars.update(tasks[backend], completed=completed, total=total)

        yield report
