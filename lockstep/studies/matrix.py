"""The parity matrix: every entry of the catalogue trained by both twins and the oracle, and
judged.
"""

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
    """One twin held against the oracle, over every array that both recorded.

    `semantics` is the largest difference in float64, relative to its array's largest value (None
    where the recipe computes in bfloat16 and float64 would say nothing), `rounding` the same in
    float32, and `share` the largest
    error in float32 over its derived bound. `fault` says in one line what is wrong, and is "" if
    nothing is.
    """

    semantics: float | None = None
    rounding: float | None = None
    share: float | None = None
    fault: str = ""


@dataclass(frozen=True)
class Row:
    """One entry, with a cell for each twin."""

    entry: Entry
    cells: dict[str, Cell]

    @property
    def holds(self) -> bool:
        """No cell is at fault."""
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
        jobs = {
            backend: [
                Job(form, folder / f"{i}.data", folder / f"{i}.{dtype}.{backend}")
                for i, entry in enumerate(entries)
                for dtype, form in entry.recipe.forms.items()
            ]
            for backend in BACKENDS
        }
        with Team(BACKENDS, device) as team:
            team.begin(jobs, report)
            oracles = _train_oracles(entries, data, report)
            faults = team.finish()
        rows = []
        for i, (entry, oracle) in enumerate(zip(entries, oracles)):
            if _changes_nothing(entry, oracle):
                rows.append(
                    Row(
                        entry,
                        dict.fromkeys(BACKENDS, Cell(fault="it changes nothing that is recorded")),
                    )
                )
            else:
                exact = float64_bounds(entry.recipe.with_dtype("float64"), data[i])
                rows.append(
                    Row(entry, {b: _judge(folder, i, b, oracle, exact, faults) for b in BACKENDS})
                )
        return rows


def _train_oracles(
    entries: Sequence[Entry], data: Sequence[PreparedData], report: Report
) -> list[dict[str, Trace]]:
    """Of each entry: dtype -> the oracle's trace."""
    jobs: list[OracleJob] = []
    for entry, prepared in zip(entries, data):
        jobs += [
            OracleJob(form, prepared, dtype == "float32")
            for dtype, form in entry.recipe.forms.items()
        ]
    traces = iter(train_oracles(jobs, report))
    return [{dtype: next(traces) for dtype in entry.recipe.forms} for entry in entries]


def _changes_nothing(entry: Entry, oracle: Mapping[str, Trace]) -> bool:
    """The oracle trains the same with the entry's choice as without it: there would be nothing to
    compare.
    """
    trace = oracle["float32"]
    other = _train_without(entry.without.with_dtype("float32"))
    recorded = {
        name: array for name, array in trace.arrays.items() if not name.startswith("bounds/")
    }
    same = recorded.keys() == other.arrays.keys()
    return same and all(
        np.array_equal(array, other.arrays[name]) for name, array in recorded.items()
    )


@cache
def _train_without(recipe: Recipe) -> Trace:
    return train_oracle(recipe, prepare(recipe), bounds=False)


def _judge(
    folder: Path,
    i: int,
    backend: str,
    oracle: Mapping[str, Trace],
    exact: DeriveBounds,
    faults: Mapping[Path, str],
) -> Cell:
    cell, exact_limits = Cell(), []
    for dtype, truth in oracle.items():
        path = folder / f"{i}.{dtype}.{backend}"
        if path in faults:
            return replace(cell, fault=f"{dtype}: {faults[path]}")
        trace = Trace.load_unchecked(path)
        if dtype == "float64":
            found = compare_exactly(trace, truth, exact)
            exact_limits.append(found.limit)
        else:
            found = compare(trace, truth, bounds_of(truth) or {})
        if dtype == "float64":
            cell = replace(cell, semantics=_distance(trace, truth))
        else:
            share = max((worst.ratio for worst in found.worst.values()), default=None)
            cell = replace(cell, rounding=_distance(trace, truth), share=share)
        if found.first is not None:
            return replace(cell, fault=f"{dtype}: {describe_difference(found.first)}")
        if found.limit is not None and not settles(found.limit, *exact_limits):
            return replace(cell, fault=f"{dtype}: {describe_limit(found.limit)}")
    return cell


def _distance(trace: Trace, truth: Trace) -> float:
    """Largest difference of any array, relative to its largest value."""
    found = 0.0
    for name, expected in truth.arrays.items():
        if name in trace.arrays and name != "updates/lr":
            size = float(np.abs(expected).max(initial=0.0))
            difference = float(
                np.abs(trace.arrays[name].astype(np.float64) - expected).max(initial=0.0)
            )
            found = max(found, difference / size if size else difference)
    return found
