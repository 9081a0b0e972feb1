"""The terminal: its width and colours, and the result of a comparison."""

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
    """A console on which text is only ever text: nothing in it is markup, and what does not print
    is shown escaped.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, escaped before it is laid out."""
        return super().render_str(printable(text, LAYOUT), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of anything; those of rich's own control codes stay as they are."""
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else segment._replace(text=printable(segment.text, LAYOUT))
            )


def make_console() -> Console:
    """Standard output: colours on a terminal unless NO_COLOR is set; 80 columns wide where it is
    none and
    COLUMNS does not say otherwise."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
    return PlainConsole(width=width)


def print_comparison(found: Comparison, names: tuple[str, str], console: Console) -> None:
    """A row for each stage with its worst element, the first divergence, then the verdict."""
    print_stages(found, names, console)
    if found.first is not None:
        console.print(f"First {printable(describe_difference(found.first))}", soft_wrap=True)
    print_verdict(found, console)


def print_verdict(found: Comparison, console: Console) -> None:
    """The verdict, of how much, and where judging ends."""
    if found.limit is not None:
        text = describe_limit(found.limit)
        console.print(f"{text[0].upper()}{text[1:]}.", soft_wrap=True)
    console.print(f"verdict: {found.verdict} ({found.compared} arrays compared)", style="bold")


def print_stages(found: Comparison, names: tuple[str, str], console: Console) -> None:
    """A row for each stage with its worst element."""
    a, b = (printable(name) for name in names)
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"{a} against {b}", title_justify="left"
    )
    for header in ("stage", "worst at", "update"):
        table.add_column(header, overflow="fold")
    for header in ("difference", "bound", "ratio"):
        table.add_column(header, justify="right")
    for stage, worst in found.worst.items():
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
