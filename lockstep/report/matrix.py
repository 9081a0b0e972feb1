"""The parity matrix as a table, in the terminal and in Markdown."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from lockstep.files.outputs import markdown
from lockstep.printable import printable
from lockstep.report.package_versions import measured_with
from lockstep.studies.matrix import Cell, Row

__all__ = ["MATRIX", "matrix_markdown", "print_matrix", "summarise"]

MATRIX = markdown("lockstep matrix", "# The parity matrix\n\nEvery choice that a recipe can name, ")
HEADERS = ("float64: torch", "jax", "float32: torch", "jax")


def summarise(rows: Sequence[Row]) -> str:
    """How many rows hold, in one line."""
    holding = sum(row.holds for row in rows)
    failing = len(rows) - holding
    text = f"{holding} of {len(rows)} hold"
    return f"{text}; {failing} do not" if failing else text


def print_matrix(rows: Sequence[Row], console: Console) -> None:
    """Print a row for each entry, then what is wrong, then how many rows hold."""
    for group, members in _by_group(rows).items():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(group, overflow="fold")
        for header in HEADERS:
            table.add_column(header, justify="right", no_wrap=True)
        for row in members:
            style = "" if row.holds else "red"
            table.add_row(printable(row.entry.name), *_figures(row), style=style)
        console.print(table)
    for row in rows:
        for backend, cell in row.cells.items():
            if cell.fault:
                place = f"{row.entry.group} {row.entry.name}, {backend}"
                console.print(
                    f"{printable(place)}: {printable(cell.fault)}", soft_wrap=True, style="red"
                )
    console.print(summarise(rows), style="bold")


def matrix_markdown(rows: Sequence[Row]) -> str:
    """The page: how to read it, and a table for each group."""
    lines = [
        "# The parity matrix",
        "",
        "Every choice that a recipe can name, trained by PyTorch, JAX and the oracle. "
        "`lockstep matrix` prints it.",
        "",
        f"- Measured with {measured_with()}. {summarise(rows)}.",
        "- The learning rate is the same bits in all three at every update of every row.",
        "- **float64**: the largest difference from the oracle of anything recorded (loss, norms, "
        "every parameter, metrics), relative to the largest value of its kind. A row holds at "
        "1e-12.",
        "- **float32**: the same in float32, and in brackets the largest error over the bound "
        "derived for it, which may be at most 1 (see [equality](equality.md)). Mixed precision has "
        "no float64 form.",
        "- A row that trains as if its choice were not made does not hold.",
        "",
    ]
    for group, members in _by_group(rows).items():
        lines += [f"## {group}", ""]
        lines += [f"| entry | {' | '.join(HEADERS)} |", "|---|" + "---:|" * len(HEADERS)]
        lines += [f"| {row.entry.name} | {' | '.join(_figures(row))} |" for row in members]
        lines.append("")
    return "\n".join(lines)


def _by_group(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.entry.group, []).append(row)
    return groups


def _figures(row: Row) -> list[str]:
    cells = row.cells.values()
    return [*map(_semantics, cells), *map(_rounding, cells)]


def _semantics(cell: Cell) -> str:
    return _empty(cell) if cell.semantics is None else f"{cell.semantics:.0e}"


def _rounding(cell: Cell) -> str:
    return _empty(cell) if cell.rounding is None else f"{cell.rounding:.0e} ({cell.share:.2f})"


def _empty(cell: Cell) -> str:
    """The text of a cell without a figure."""
    return "-" if cell.fault else ""
