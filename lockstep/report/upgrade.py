"""What an upgrade changed: a table in the terminal, the same in Markdown, and all of it as JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lockstep.diagnose.compare import Difference
from lockstep.diagnose.verdict import describe_difference
from lockstep.files.outputs import json_document, markdown
from lockstep.numbers import json_number
from lockstep.printable import printable
from lockstep.studies.upgrade.compare_releases import Change, Finding, Upgrade

__all__ = [
    "COLOURS",
    "KINDS",
    "describe_findings",
    "finding_json",
    "markdown_table",
    "print_upgrade",
    "upgrade_json",
    "upgrade_markdown",
]

KINDS = {
    ".md": markdown("lockstep upgrade-check", r"# Upgrade check of [^\n]*\n\n\*\*"),
    ".json": json_document("lockstep.upgrade"),
}
COLOURS = dict(zip(Change, ("green", "green", "yellow", "yellow", "red", "red")))
NEARER = {
    "golden": "the oracle agrees with the golden trace",
    "present": "the oracle agrees with the present run",
    "both": "both are within the oracle's tolerance",
    "neither": "the oracle agrees with neither",
    "": "",
}


def print_upgrade(upgrade: Upgrade, folder: str, console: Console) -> None:
    """What was blessed with other settings, a row for each stage, what changed, and the verdict."""
    if settings := list(_settings(upgrade)):
        table = _table("", "setting", "blessed with", "here")
        for row in settings:
            table.add_row(*(printable(cell) for cell in row))
        console.print(table)
    table = _table("stage", *_columns(upgrade))
    for stage, cells in _grid(upgrade).items():
        marked = [
            Text(cell.words, style=COLOURS[cell]) if cell is not None else "" for cell in cells
        ]
        table.add_row(stage, *marked)
    console.print(table)
    for line in describe_findings(upgrade.findings):
        console.print(printable(line), soft_wrap=True)
    for backend in upgrade.skipped:
        console.print(f"{backend}: skipped, it is not installed", style="yellow")
    console.print(
        f"verdict on {printable(folder)}: {upgrade.change.words}",
        style=f"bold {COLOURS[upgrade.change]}",
    )


def describe_findings(findings: Sequence[Finding]) -> list[str]:
    """A line for each recipe that changed, where it first parted; and one for each backend's
    largest rounding.
    """
    lines: list[str] = []
    rounding: dict[str, Finding] = {}
    for found in findings:
        place = (
            f"{found.backend}, {found.recipe}"
            if found.recipe and found.backend != "data"
            else found.backend
        )
        if found.backend == "data":
            place = f"data of {found.recipe}"
        if found.change is Change.ROUNDING and found.worst is not None:
            known = rounding.get(found.backend)
            if known is None or known.worst is None or found.worst.ratio > known.worst.ratio:
                rounding[found.backend] = found
        elif found.first is not None:
            parts = [
                f"{found.dtype}, first {describe_difference(found.first)}",
                NEARER[found.nearer],
                found.note,
            ]
            lines.append(
                f"{place}: {found.change.words}: {'; '.join(part for part in parts if part)}"
            )
        elif found.worst is None and found.change is not Change.IDENTICAL:
            lines.append(f"{place}: {found.change.words}: {found.note}")
    for backend, found in rounding.items():
        if found.worst is not None:
            worst = describe_difference(found.worst)
            lines.append(f"{backend}: largest rounding: {found.recipe}, {found.dtype}, {worst}")
    return lines


def upgrade_markdown(upgrade: Upgrade, folder: str) -> str:
    """The same as a page."""
    lines = [f"# Upgrade check of {folder}", "", f"**{upgrade.change.words}**", ""]
    if settings := list(_settings(upgrade)):
        lines += markdown_table(["", "setting", "blessed with", "here"], settings)
    grid = [
        [stage, *(c.words if c is not None else "" for c in cells)]
        for stage, cells in _grid(upgrade).items()
    ]
    lines += markdown_table(["stage", *_columns(upgrade)], grid)
    lines += [f"- {line}" for line in describe_findings(upgrade.findings)]
    lines += [f"- {backend}: skipped, it is not installed" for backend in upgrade.skipped]
    return "\n".join(lines).rstrip() + "\n"


def upgrade_json(upgrade: Upgrade) -> str:
    """Everything that was found; strict JSON, None in place of NaN and infinities."""
    content = {
        "schema": "lockstep.upgrade/1",
        "verdict": upgrade.change.words,
        "skipped": upgrade.skipped,
        "settings": upgrade.settings,
        "stages": {backend: _named(upgrade.stages(backend)) for backend in upgrade.backends},
        "findings": [finding_json(finding) for finding in upgrade.findings],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _named(stages: dict[str, Change]) -> dict[str, str]:
    return {stage: change.words for stage, change in stages.items()}


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding as plain values, None in place of NaN and infinities."""
    differences = {name: _difference(getattr(finding, name)) for name in ("worst", "first")}
    return asdict(finding) | {"change": finding.change.words} | differences


def _difference(found: Difference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        name: json_number(v) if isinstance(v, float) else v for name, v in asdict(found).items()
    }


def _columns(upgrade: Upgrade) -> list[str]:
    return [backend for backend in upgrade.backends if backend != "data"]


def _grid(upgrade: Upgrade) -> dict[str, list[Change | None]]:
    """Stage -> the worst of each backend; the data are everybody's."""
    stages = {backend: upgrade.stages(backend) for backend in upgrade.backends}
    names = list(dict.fromkeys(stage for found in stages.values() for stage in found))
    columns = _columns(upgrade)
    return {
        name: [stages["data" if name == "data" else b].get(name) for b in columns] for name in names
    }


def _settings(upgrade: Upgrade) -> Iterator[tuple[str, ...]]:
    for backend, settings in upgrade.settings.items():
        for name, (before, after) in settings.items():
            yield (
                backend,
                name,
                *("-" if value is None else str(value) for value in (before, after)),
            )


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Its lines, and an empty one."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        f"| {' | '.join(headers)} |",
        "|" + "---|" * len(headers),
        *(f"| {' | '.join(row)} |" for row in escaped),
        "",
    ]
