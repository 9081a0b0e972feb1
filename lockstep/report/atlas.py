"""The porting atlas in the terminal: a list of pages, one page, or a check of pages."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lockstep.printable import printable
from lockstep.studies.atlas.check import Check, describe_check
from lockstep.studies.atlas.pages import FRAMEWORKS, Page

__all__ = ["print_check", "print_index", "print_page"]

TOLERANCE = "Figures are compared to the two digits on a page; below 1e-12 is rounding."
STATUSES = {"holds": "as recorded", "moved": "moved", "cannot run": "cannot run"}


def print_index(pages: Sequence[Page], console: Console, *, grouped: bool) -> None:
    """Print a row for each page: the word that prints the page, and its title.

    Args:
        pages: the pages, in the order to show.
        console: where to print.
        grouped: whether a heading stands wherever the group changes.
    """
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="fold", style="bold")
    table.add_column(overflow="fold")
    group = ""
    for page in pages:
        if grouped and page.group != group:
            group = page.group
            table.add_row("", "")
            table.add_row(Text(group, style="underline"), "")
        table.add_row(printable(page.slug), printable(page.title))
    console.print(table)
    console.print(f"\n{len(pages)} pages; `lockstep atlas NAME` prints one.")


def print_page(page: Page, console: Console) -> None:
    """Print a page; a link that cannot be clicked is written out."""
    console.print(Markdown(page.text, code_theme="ansi_dark", hyperlinks=console.is_terminal))


def print_check(checks: Sequence[Check], versions: Mapping[str, str], console: Console) -> None:
    """Print the versions that ran the pages, what moved or could not run, and how many pages hold.

    Args:
        checks: the checks of the pages, in the order to show.
        versions: package -> the version that is installed.
        console: where to print; lines are wrapped to its width.
    """

    def line(text: str, indent: int = 0, style: str = "") -> None:
        console.print(Padding(Text(printable(text), style=style), (0, 0, 0, indent), expand=False))

    installed = ", ".join(f"{package} {number}" for package, number in versions.items())
    line(f"Installed: {installed or 'none of ' + ', '.join(FRAMEWORKS)}. {TOLERANCE}")
    for package, number in versions.items():
        others = [
            check.page.measured[package] for check in checks if package in check.page.measured
        ]
        if others and not any(number in numbers for numbers in others):
            recorded = " and ".join(dict.fromkeys(numbers[-1] for numbers in others))
            line(
                f"No page was measured with {package} {number}; the last version recorded is "
                f"{recorded}."
            )
    for status, style in (("moved", "red"), ("cannot run", "yellow")):
        chosen = [check for check in checks if check.status == status]
        if chosen:
            line("")
            line(status, style=f"bold {style}")
        for check in chosen:
            line(check.page.slug, style="bold")
            for text in describe_check(check):
                line(text, indent=2)
    counts = Counter(check.status for check in checks)
    summary = [f"{counts[status]} {words}" for status, words in STATUSES.items() if counts[status]]
    line("")
    line(", ".join(summary), style="bold")
