"""The parity matrix: both twins train every choice of a recipe, and the oracle judges them."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from lockstep.backends import BACKENDS
from lockstep.data_prep import PreparedData, prepare
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.exact import DeriveBounds, compare_exactly, float64_bounds
from lockstep.diagnose.verdict import describe_difference, describe_limit, settles
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.run.oracles import OracleJob, train_oracles
from lockstep.run.team import Team
from lockstep.run.workers import Job, Report
from lockstep.studies.matrix_entries import Entry

__all__ = ["Cell", "Row", "measure"]


@dataclass(frozen=True)
class Cell:
    """One twin against the oracle, over every array that both recorded."""

    semantics: float | None = None
    """The largest difference in float64, over its array's largest value. It is None where the
    recipe computes in bfloat16, of which float64 would say nothing."""
    rounding: float | None = None
    """The same in float32."""
    share: float | None = None
    """The largest error in float32 over its derived bound."""
    fault: str = ""
    """What is wrong, in one line."""


@dataclass(frozen=True)
class Row:
    """One entry, with a cell for each twin."""

    entry: Entry
    cells: dict[str, Cell]

    @property
    def holds(self) -> bool:
        """Whether no cell is at fault."""
        return not any(cell.fault for cell in self.cells.values())


def measure(entries: Sequence[Entry], *, device: str, report: Report) -> list[Row]:
    """Train every entry in float64 and in float32 with the oracle and both twins, and judge it.

    Args:
        entries: from `lockstep.studies.matrix_entries.entries`.
        device: "cpu", "gpu" or "auto", for both twins.
        report: told of each backend's progress.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = [prepare(entry.recipe) for entry in entries]
        for i, prepared in enumerate(data):
            prepared.save(folder / f"{i}.data")
        with Team(BACKENDS, device) as team:
            team.begin({backend: _jobs(entries, backend, folder) for backend in BACKENDS}, report)
            oracles = _train_oracles(entries, data, report)
            faults = team.finish()
        rows = []
        for i, (entry, oracle) in enumerate(zip(entries, oracles)):
            if _changes_nothing(entry, oracle):
                idle = Cell(fault="it changes nothing that is recorded")
                rows.append(Row(entry, dict.fromkeys(BACKENDS, idle)))
                continue
            exact = float64_bounds(entry.recipe.with_dtype("float64"), data[i])
            cells = {}
            for backend in BACKENDS:
                places = {dtype: _place(folder, i, dtype, backend) for dtype in oracle}
                cells[backend] = _judge(places, oracle, exact, faults)
            rows.append(Row(entry, cells))
        return rows


def _place(folder: Path, i: int, dtype: str, backend: str) -> Path:
    return folder / f"{i}.{dtype}.{backend}"


def _jobs(entries: Sequence[Entry], backend: str, folder: Path) -> list[Job]:
    """A training of each entry in each of its precisions."""
    jobs = []
    for i, entry in enumerate(entries):
        for dtype, form in entry.recipe.forms.items():
            jobs.append(Job(form, folder / f"{i}.data", _place(folder, i, dtype, backend)))
    return jobs


def _train_oracles(
    entries: Sequence[Entry], data: Sequence[PreparedData], report: Report
) -> list[dict[str, Trace]]:
    """For each entry: dtype -> the oracle's trace."""
    jobs: list[OracleJob] = []
    for entry, prepared in zip(entries, data):
        jobs += [
            OracleJob(form, prepared, dtype == "float32")
            for dtype, form in entry.recipe.forms.items()
        ]
    traces = iter(train_oracles(jobs, report))
    return [{dtype: next(traces) for dtype in entry.recipe.forms} for entry in entries]


def _changes_nothing(entry: Entry, oracle: Mapping[str, Trace]) -> bool:
    """Whether the oracle trains the same without the entry's choice, which then proves nothing."""
    recorded = {
        name: array
        for name, array in oracle["float32"].arrays.items()
        if not name.startswith("bounds/")
    }
    without = _train_without(entry.without.with_dtype("float32")).arrays
    if recorded.keys() != without.keys():
        return False
    return all(np.array_equal(array, without[name]) for name, array in recorded.items())


@cache
def _train_without(recipe: Recipe) -> Trace:
    return train_oracle(recipe, prepare(recipe), bounds=False)


def _judge(
    places: Mapping[str, Path],
    oracle: Mapping[str, Trace],
    exact: DeriveBounds,
    faults: Mapping[Path, str],
) -> Cell:
    """Judge one twin's traces of an entry.

    Args:
        places: dtype -> the file of the twin's trace.
        oracle: dtype -> the oracle's trace.
        exact: derives the bounds in float64.
        faults: file -> why it was not trained.
    """
    cell = Cell()
    exact_limits = []
    for dtype, truth in oracle.items():
        if places[dtype] in faults:
            return replace(cell, fault=f"{dtype}: {faults[places[dtype]]}")
        trace = Trace.load_unchecked(places[dtype])
        if dtype == "float64":
            comparison = compare_exactly(trace, truth, exact)
            exact_limits.append(comparison.limit)
            cell = replace(cell, semantics=_distance(trace, truth))
        else:
            comparison = compare(trace, truth, bounds_of(truth) or {})
            share = max((worst.ratio for worst in comparison.worst.values()), default=None)
            cell = replace(cell, rounding=_distance(trace, truth), share=share)
        if comparison.first is not None:
            return replace(cell, fault=f"{dtype}: {describe_difference(comparison.first)}")
        if comparison.limit is not None and not settles(comparison.limit, *exact_limits):
            return replace(cell, fault=f"{dtype}: {describe_limit(comparison.limit)}")
    return cell


def _distance(trace: Trace, truth: Trace) -> float:
    """Largest difference of any array, relative to its largest value."""
    largest = 0.0
    for name, expected in truth.arrays.items():
        if name in trace.arrays and name != "updates/lr":
            differences = np.abs(trace.arrays[name].astype(np.float64) - expected)
            difference = float(differences.max(initial=0.0))
            size = float(np.abs(expected).max(initial=0.0))
            largest = max(largest, difference / size if size else difference)
    return largest
