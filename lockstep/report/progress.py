"""Progress while something trains."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["training_progress"]

Report = Callable[[str, int, int], None]


@contextmanager
def training_progress() -> Iterator[Report]:
    """A bar for each backend, on standard error; nothing where that is not a terminal."""
    columns = (TextColumn("{task.description:7}"), BarColumn(), MofNCompleteColumn(), TextColumn("updates"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, TaskID] = {}

        def report(backend: str, done: int, total: int) -> None:
            if backend not in tasks:
                tasks[backend] = bars.add_task(backend, total=total)
            bars.update(tasks[backend], completed=done, total=total)

        yield report
