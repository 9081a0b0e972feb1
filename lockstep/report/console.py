"""The console that commands print on, and the tables of a comparison."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lockstep.diagnose.compare import Comparison
from lockstep.diagnose.verdict import describe_difference, describe_limit
from lockstep.numbers import factor
from lockstep.printable import LAYOUT, printable

__all__ = ["PlainConsole", "make_console", "print_comparison", "print_stages", "print_verdict"]


class PlainConsole(Console):
    """A console that takes text as it is: no markup, and escapes for what does not print."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, escaped before it is laid out."""
        return super().render_str(printable(text, LAYOUT), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of anything, escaped; rich's own control codes stay as they are."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=printable(segment.text, LAYOUT))


def make_console() -> Console:
    """A console on standard output.

    A terminal has colours unless NO_COLOR is set. Any other output is 80 columns wide unless
    COLUMNS says otherwise.
    """
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
    return PlainConsole(width=width)


def print_comparison(comparison: Comparison, names: tuple[str, str], console: Console) -> None:
    """Print a row for each stage with its worst element, the first divergence, and the verdict."""
    print_stages(comparison, names, console)
    if comparison.first is not None:
        console.print(f"First {printable(describe_difference(comparison.first))}", soft_wrap=True)
    print_verdict(comparison, console)


def print_verdict(comparison: Comparison, console: Console) -> None:
    """Print where judging ends, the verdict, and how many arrays were compared."""
    if comparison.limit is not None:
        text = describe_limit(comparison.limit)
        console.print(f"{text[0].upper()}{text[1:]}.", soft_wrap=True)
    console.print(
        f"verdict: {comparison.verdict} ({comparison.compared} arrays compared)", style="bold"
    )


def print_stages(comparison: Comparison, names: tuple[str, str], console: Console) -> None:
    """Print a row for each stage with its worst element."""
    title = " against ".join(printable(name) for name in names)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for header in ("stage", "worst at", "update"):
        table.add_column(header, overflow="fold")
    for header in ("difference", "bound", "ratio"):
        table.add_column(header, justify="right")
    for stage, worst in comparison.worst.items():
        place = f"[{', '.join(map(str, worst.element))}]" if worst.element else ""
        update = "start" if worst.update < 0 else str(worst.update)
        ratio = "beyond" if worst.ratio == float("inf") else factor(worst.ratio, 2)
        table.add_row(
            stage,
            printable(worst.tensor + place),
            update,
            f"{worst.difference:.2e}",
            f"{worst.bound:.2e}",
            ratio,
        )
    console.print(table)
