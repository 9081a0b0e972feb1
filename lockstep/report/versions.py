"""What each combination of versions changes, by stage, in the terminal, in Markdown and as JSON."""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lockstep.files.outputs import json_document, markdown
from lockstep.printable import printable
from lockstep.report.upgrade import COLOURS, describe_findings, finding_json, markdown_table
from lockstep.studies.upgrade.compare_releases import Change
from lockstep.studies.upgrade.matrix import Origin, Row

__all__ = ["KINDS", "describe_origin", "print_versions", "versions_json", "versions_markdown"]

KINDS = {
    ".md": markdown("lockstep matrix-versions", r"Against [^\n]*\.\n\n\| combination \|"),
    ".json": json_document("lockstep.versions"),
}
SIGNS = dict(zip(Change, "=~M?SF"))
LEGEND = "  ".join(f"{sign} {change.words}" for change, sign in SIGNS.items())
SHORT = {"numeric mode": "mode", "training": "runs"}


def print_versions(
    rows: Sequence[Row], origins: Sequence[Origin], against: str, console: Console
) -> None:
    """Print a table for each backend, with a row for each combination; then what changed, and where
    that began.
    """
    console.print(f"Against {printable(against)}:", soft_wrap=True)
    for backend in dict.fromkeys(row.combination.backend for row in rows):
        chosen = [row for row in rows if row.combination.backend == backend]
        stages = _stages(chosen)
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for package, _ in chosen[0].combination.versions:
            table.add_column(package, no_wrap=True)
        for stage in stages:
            table.add_column(SHORT.get(stage, stage), overflow="fold")
        for row in chosen:
            numbers = [printable(number) for _, number in row.combination.versions]
            cells = [_cell(row.stages.get(stage)) for stage in stages]
            table.add_row(*numbers, *cells)
        console.print(table)
    console.print(LEGEND, style="dim", soft_wrap=True)
    for line in (*_lines(rows), *map(describe_origin, origins)):
        console.print(printable(line), soft_wrap=True)


def _cell(change: Change | None) -> Text:
    return Text() if change is None else Text(SIGNS[change], COLOURS[change])


def describe_origin(origin: Origin) -> str:
    """Which release changed what, in one line."""
    steps = " and ".join(
        f"{name} {after} (not {before})" for name, before, after in origin.packages
    )
    without = dict(origin.without.versions)
    fixed = [
        f"{name} {number}" for name, number in origin.with_it.versions if without[name] == number
    ]
    beside = f", beside {', '.join(fixed)}" if fixed else ""
    untried = "; ".join(combination.label for combination in origin.untried)
    if untried:
        untried = f"; in between, not to be tried: {untried}"
    return f"{origin.recipe}: {origin.change.words} with {steps}{beside}{untried}"


def versions_markdown(rows: Sequence[Row], origins: Sequence[Origin], against: str) -> str:
    """The page: what `print_versions` prints, in Markdown."""
    stages = _stages(rows)
    body = []
    for row in rows:
        changes = [row.stages.get(stage) for stage in stages]
        words = ["" if change is None else change.words for change in changes]
        body.append([row.combination.label, *words])
    lines = [f"Against {against}.", "", *markdown_table(["combination", *stages], body)]
    lines += [f"- {line}" for line in _lines(rows)]
    if origins:
        lines += ["", "Where it began:", ""]
        lines += [f"- {describe_origin(origin)}" for origin in origins]
    return "\n".join(lines).rstrip() + "\n"


def versions_json(rows: Sequence[Row], origins: Sequence[Origin], against: str) -> str:
    """Every row and origin as strict JSON."""
    content = {
        "schema": "lockstep.versions/1",
        "against": against,
        "combinations": [_row_json(row) for row in rows],
        "origins": [_origin_json(origin) for origin in origins],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "versions": dict(row.combination.versions),
        "verdict": row.change.words,
        "fault": row.fault,
        "stages": {stage: change.words for stage, change in row.stages.items()},
        "findings": [finding_json(finding) for finding in row.findings],
    }


def _origin_json(origin: Origin) -> dict[str, Any]:
    return {
        "recipe": origin.recipe,
        "change": origin.change.words,
        "without": dict(origin.without.versions),
        "with": dict(origin.with_it.versions),
        "untried": [dict(combination.versions) for combination in origin.untried],
    }


def _stages(rows: Sequence[Row]) -> list[str]:
    """The stages of all rows, each once."""
    return list(dict.fromkeys(chain.from_iterable(row.stages for row in rows)))


def _lines(rows: Sequence[Row]) -> list[str]:
    """A line for each fault or change, which begins with the combination."""
    lines = []
    for row in rows:
        texts = [row.fault] if row.fault else describe_findings(row.findings)
        prefix = f"{row.combination.label}: "
        lines += [prefix + text.removeprefix(prefix) for text in texts]
    return lines
