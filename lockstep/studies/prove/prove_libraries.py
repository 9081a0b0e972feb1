"""Plant every fault in its library, train as `lockstep run` does with either engine, and judge."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from lockstep.backends import BACKENDS
from lockstep.data_prep import PreparedData, prepare
from lockstep.diagnose.compare import Difference
from lockstep.diagnose.exact import DeriveBounds, compare_exactly, float64_bounds
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.run.team import Team
from lockstep.run.workers import Job, Report
from lockstep.studies.prove.library_faults import LibraryFault

__all__ = ["ENGINES", "PROCESSES", "LibraryOutcome", "prove_libraries"]

ENGINES = ("plain", "fast")
PROCESSES = {"torch": 1, "jax": 2}
"""Twin -> how many processes train it; JAX has more, because it compiles every fault anew."""


@dataclass(frozen=True)
class LibraryOutcome:
    """The float64 run of one engine with one library's fault."""

    fault: LibraryFault
    engine: str
    first: Difference | None
    """The first difference from the oracle."""
    is_reached: bool
    """Whether any bit differs from the run without the fault."""
    error: str = ""
    """Why there is no run."""

    @property
    def is_right(self) -> bool:
        """Whether the run parts at the fault's place, or has the right bits if the engine does not
        reach the function.
        """
        place = self.fault.places[self.engine]
        if self.error or self.is_reached != (place is not None):
            return False
        if self.first is None:
            return place is None
        return place == (self.first.update, self.first.stage)


@dataclass(frozen=True)
class _Setting:
    """What the runs of a recipe need: its data, the oracle's float64 trace, and its bounds."""

    data: PreparedData
    oracle: Trace
    derive_bounds: DeriveBounds


def prove_libraries(
    faults: Sequence[LibraryFault], *, report: Report
) -> tuple[LibraryOutcome, ...]:
    """An outcome for each fault and engine.

    Args:
        faults: from `lockstep.studies.prove.library_faults`.
        report: told of each process's progress.

    Raises:
        InputError: a framework is not installed, or a run without a fault cannot be made.
    """
    recipes = list(dict.fromkeys(fault.right for fault in faults))
    settings = [_setting(recipe) for recipe in recipes]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for i, setting in enumerate(settings):
            setting.data.save(folder / f"{i}.data")
        twins: list[str] = []
        shares: list[list[Job]] = []
        for twin in BACKENDS:
            jobs_of_processes = list(_jobs(faults, recipes, twin, folder))
            for i in range(min(PROCESSES[twin], len(jobs_of_processes))):
                twins.append(twin)
                shares.append(list(chain.from_iterable(jobs_of_processes[i :: PROCESSES[twin]])))
        with Team(twins, threads=1, plants="library") as team:
            team.begin(dict(zip(team.names, shares)), report)
            errors = team.finish()
        outcomes: list[LibraryOutcome] = []
        for fault in faults:
            i = recipes.index(fault.right)
            outcomes += [
                _outcome(fault, engine, settings[i], i, folder, errors) for engine in ENGINES
            ]
    return tuple(outcomes)


def _setting(recipe: Recipe) -> _Setting:
    data = prepare(recipe)
    exact = recipe.with_dtype("float64")
    return _Setting(data, train_oracle(exact, data, bounds=False), float64_bounds(exact, data))


def _jobs(
    faults: Sequence[LibraryFault], recipes: Sequence[Recipe], twin: str, folder: Path
) -> Iterator[list[Job]]:
    """The jobs of each process of a twin: each recipe without a fault, then each fault, both
    with both engines.
    """
    own = [fault for fault in faults if fault.twin == twin]
    used = dict.fromkeys(fault.right for fault in own)
    runs = [(_name(recipes.index(recipe), twin), "", recipe) for recipe in used]
    runs += [(fault.key, fault.key, fault.right) for fault in own]
    for name, key, recipe in runs:
        data = folder / f"{recipes.index(recipe)}.data"
        exact = recipe.with_dtype("float64")
        yield [
            Job(exact, data, _place(folder, name, engine), fault=key, engine=engine)
            for engine in ENGINES
        ]


def _name(i: int, twin: str) -> str:
    """The name of a twin's runs of recipe i without a fault."""
    return f"{i}.{twin}"


def _place(folder: Path, name: str, engine: str) -> Path:
    return folder / f"{name}.{engine}.trace"


def _outcome(
    fault: LibraryFault,
    engine: str,
    setting: _Setting,
    i: int,
    folder: Path,
    errors: dict[Path, str],
) -> LibraryOutcome:
    place = _place(folder, fault.key, engine)
    if place in errors:
        return LibraryOutcome(fault, engine, None, True, errors[place])
    trace = Trace.load_unchecked(place)
    right = Trace.load_unchecked(_place(folder, _name(i, fault.twin), engine))
    first = compare_exactly(trace, setting.oracle, setting.derive_bounds).first
    return LibraryOutcome(fault, engine, first, not _same_bits(trace, right))


def _same_bits(a: Trace, b: Trace) -> bool:
    """Whether all that is judged has the same bits; predictions of the trained model are not."""
    names = [name for name in a.arrays if not name.startswith("prediction/")]
    return all(np.array_equal(a.arrays[name], b.arrays[name], equal_nan=True) for name in names)
