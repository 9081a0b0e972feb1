"""What an upgrade changed: a table in the terminal and in Markdown, and everything as JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
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
    """Print settings that differ, a row for each stage, what changed, and the verdict."""
    settings = list(_settings(upgrade))
    if settings:
        table = _table("", "setting", "blessed with", "here")
        for row in settings:
            table.add_row(*(printable(cell) for cell in row))
        console.print(table)
    table = _table("stage", *_columns(upgrade))
    for stage, cells in _grid(upgrade).items():
        texts = [Text() if cell is None else Text(cell.words, COLOURS[cell]) for cell in cells]
        table.add_row(stage, *texts)
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
    """A line for each recipe that changed, with where it first parted, and a line for each
    backend's largest rounding.
    """
    lines: list[str] = []
    largest: dict[str, Finding] = {}
    for finding in findings:
        if finding.change is Change.ROUNDING and finding.worst is not None:
            known = largest.get(finding.backend)
            if known is None or known.worst is None or finding.worst.ratio > known.worst.ratio:
                largest[finding.backend] = finding
        elif finding.first is not None:
            first = f"{finding.dtype}, first {describe_difference(finding.first)}"
            parts = [part for part in (first, NEARER[finding.nearer], finding.note) if part]
            lines.append(f"{_place(finding)}: {finding.change.words}: {'; '.join(parts)}")
        elif finding.worst is None and finding.change is not Change.IDENTICAL:
            lines.append(f"{_place(finding)}: {finding.change.words}: {finding.note}")
    for backend, finding in largest.items():
        if finding.worst is not None:
            worst = describe_difference(finding.worst)
            lines.append(f"{backend}: largest rounding: {finding.recipe}, {finding.dtype}, {worst}")
    return lines


def _place(finding: Finding) -> str:
    if finding.backend == "data":
        return f"data of {finding.recipe}"
    return f"{finding.backend}, {finding.recipe}" if finding.recipe else finding.backend


def upgrade_markdown(upgrade: Upgrade, folder: str) -> str:
    """The page: what `print_upgrade` prints, in Markdown."""
    lines = [f"# Upgrade check of {folder}", "", f"**{upgrade.change.words}**", ""]
    settings = list(_settings(upgrade))
    if settings:
        lines += markdown_table(["", "setting", "blessed with", "here"], settings)
    grid = []
    for stage, cells in _grid(upgrade).items():
        grid.append([stage, *("" if cell is None else cell.words for cell in cells)])
    lines += markdown_table(["stage", *_columns(upgrade)], grid)
    lines += [f"- {line}" for line in describe_findings(upgrade.findings)]
    lines += [f"- {backend}: skipped, it is not installed" for backend in upgrade.skipped]
    return "\n".join(lines).rstrip() + "\n"


def upgrade_json(upgrade: Upgrade) -> str:
    """Every finding as strict JSON, with None for NaN and infinities."""
    content = {
        "schema": "lockstep.upgrade/1",
        "verdict": upgrade.change.words,
        "skipped": upgrade.skipped,
        "settings": upgrade.settings,
        "stages": {backend: _words(upgrade.stages(backend)) for backend in upgrade.backends},
        "findings": [finding_json(finding) for finding in upgrade.findings],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _words(stages: dict[str, Change]) -> dict[str, str]:
    return {stage: change.words for stage, change in stages.items()}


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding as plain values, with None for NaN and infinities."""
    differences = {name: _difference(getattr(finding, name)) for name in ("worst", "first")}
    return asdict(finding) | {"change": finding.change.words} | differences


def _difference(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {
        name: json_number(value) if isinstance(value, float) else value
        for name, value in asdict(difference).items()
    }


def _columns(upgrade: Upgrade) -> list[str]:
    return [backend for backend in upgrade.backends if backend != "data"]


def _grid(upgrade: Upgrade) -> dict[str, list[Change | None]]:
    """Stage -> the largest change of each backend. The data are the same for all backends."""
    changes = {backend: upgrade.stages(backend) for backend in upgrade.backends}
    columns = _columns(upgrade)
    grid: dict[str, list[Change | None]] = {}
    for stage in dict.fromkeys(chain.from_iterable(changes.values())):
        if stage == "data":
            grid[stage] = [changes["data"].get(stage)] * len(columns)
        else:
            grid[stage] = [changes[backend].get(stage) for backend in columns]
    return grid


def _settings(upgrade: Upgrade) -> Iterator[tuple[str, str, str, str]]:
    for backend, settings in upgrade.settings.items():
        for name, (before, after) in settings.items():
            yield backend, name, _setting(before), _setting(after)


def _setting(value: Any) -> str:
    return "-" if value is None else str(value)


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, and an empty line."""
    lines = [f"| {' | '.join(headers)} |", "|" + "---|" * len(headers)]
    for row in rows:
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]
