"""Combinations of versions against the stages of a training, in the terminal, in Markdown and as
JSON.
"""

import json
from collections.abc import Sequence

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
    """For each backend a row for each combination; then what changed in it, and where that
    began.
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
            cells = [
                Text(SIGNS[c], style=COLOURS[c]) if c is not None else ""
                for c in _cells(row, stages)
            ]
            table.add_row(*(printable(number) for _, number in row.combination.versions), *cells)
        console.print(table)
    console.print(LEGEND, style="dim", soft_wrap=True)
    for line in (*_lines(rows), *map(describe_origin, origins)):
        console.print(printable(line), soft_wrap=True)


def describe_origin(origin: Origin) -> str:
    """Which release changed what, in one line."""
    steps = " and ".join(
        f"{name} {after} (not {before})" for name, before, after in origin.packages
    )
    fixed = [
        f"{name} {n}"
        for (name, n), (_, other) in zip(origin.with_it.versions, origin.without.versions)
        if n == other
    ]
    beside = f", beside {', '.join(fixed)}" if fixed else ""
    untried = (
        f"; in between, not to be tried: {'; '.join(c.label for c in origin.untried)}"
        if origin.untried
        else ""
    )
    return f"{origin.recipe}: {origin.change.words} with {steps}{beside}{untried}"


def versions_markdown(rows: Sequence[Row], origins: Sequence[Origin], against: str) -> str:
    """The same as a page."""
    stages = _stages(rows)
    body = [
        [row.combination.label, *(c.words if c is not None else "" for c in _cells(row, stages))]
        for row in rows
    ]
    lines = [f"Against {against}.", "", *markdown_table(["combination", *stages], body)]
    lines += [f"- {line}" for line in _lines(rows)]
    if origins:
        lines += [
            "",
            "Where it began:",
            "",
            *(f"- {describe_origin(origin)}" for origin in origins),
        ]
    return "\n".join(lines).rstrip() + "\n"


def versions_json(rows: Sequence[Row], origins: Sequence[Origin], against: str) -> str:
    """Everything that was found; strict JSON."""
    content = {
        "schema": "lockstep.versions/1",
        "against": against,
        "combinations": [
            {
                "versions": dict(row.combination.versions),
                "verdict": row.change.words,
                "fault": row.fault,
                "stages": {stage: change.words for stage, change in row.stages.items()},
                "findings": [finding_json(finding) for finding in row.findings],
            }
            for row in rows
        ],
        "origins": [
            {
                "recipe": origin.recipe,
                "change": origin.change.words,
                "without": dict(origin.without.versions),
                "with": dict(origin.with_it.versions),
                "untried": [dict(combination.versions) for combination in origin.untried],
            }
            for origin in origins
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _stages(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(stage for row in rows for stage in row.stages))


def _cells(row: Row, stages: Sequence[str]) -> list[Change | None]:
    return [row.stages.get(stage) for stage in stages]


def _lines(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        told = [row.fault] if row.fault else describe_findings(row.findings)
        lines += [
            f"{row.combination.label}: {text.removeprefix(f'{row.combination.label}: ')}"
            for text in told
        ]
    return lines
