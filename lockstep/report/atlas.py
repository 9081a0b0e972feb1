"""The porting atlas in the terminal: a list of pages, or one page."""

from collections.abc import Sequence

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from lockstep.atlas import Page
from lockstep.printable import printable

__all__ = ["print_index", "print_page"]


def print_index(pages: Sequence[Page], console: Console, *, grouped: bool) -> None:
    """A row a page: the word that prints it, its title and what the naive port is off by.

    Args:
        pages: in the order to show; `grouped` puts a heading wherever the group changes.
    """
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="fold", style="bold")
    table.add_column(overflow="fold")
    group = ""
    for page in pages:
        if grouped and page.group != group:
            group = page.group
            table.add_row(*(("", "") if table.row_count else ()), style=None)
            table.add_row(Text(group, style="underline"), "")
        table.add_row(printable(page.slug), printable(page.title))
    console.print(table)
    console.print(f"\n{len(pages)} pages; `lockstep atlas NAME` prints one.")


def print_page(page: Page, console: Console) -> None:
    """The page as it stands, its links written out where they cannot be clicked."""
    console.print(Markdown(page.text, code_theme="ansi_dark", hyperlinks=console.is_terminal))
