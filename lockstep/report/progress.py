"""Progress while something trains."""

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


@contextmanager
def training_progress(unit: str = "updates") -> Iterator[Report]:
    """A bar for each backend, on standard error; nothing where that is not a terminal."""
    description = TextColumn("{task.description:7}", markup=False)
    columns = (
        description,
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=PlainConsole(stderr=True), disable=not sys.stderr.isatty()
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def report(backend: str, done: int, total: int) -> None:
            if backend not in tasks:
                tasks[backend] = bars.add_task(backend, total=total)
            bars.update(tasks[backend], completed=done, total=total)

        yield report
