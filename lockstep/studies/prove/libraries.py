"""Plant every fault in its library, train as `lockstep run` does with either engine, and see what
is found.
"""

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
"""Of each twin: JAX compiles every fault anew."""


@dataclass(frozen=True)
class LibraryOutcome:
    """What was found of one library's fault in the float64 run of one engine: the first difference
    from the oracle, whether any bit is another than without the fault, and why the run could not be
    made, "" where it could."""

    fault: LibraryFault
    engine: str
    first: Difference | None
    is_reached: bool
    error: str = ""

    @property
    def is_right(self) -> bool:
        """Where the engine comes by the fault it is found at its place, and elsewhere it changes no
        bit.
        """
        place = self.fault.places[self.engine]
        if self.error or self.is_reached != (place is not None):
            return False
        return place == (None if self.first is None else (self.first.update, self.first.stage))


@dataclass(frozen=True)
class _Setting:
    """A recipe to plant faults on: its data, and the oracle's float64 trace, with what bounds the
    rounding around it."""

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
        InputError: a framework that is not installed, or runs without a fault that cannot be made.
    """
    settings = {
        recipe: _setting(recipe) for recipe in dict.fromkeys(fault.right for fault in faults)
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for i, setting in enumerate(settings.values()):
            setting.data.save(folder / f"{i}.data")
        shares: list[tuple[str, list[Job]]] = []
        for twin in BACKENDS:
            processes = list(_jobs(faults, list(settings), twin, folder))
            many = PROCESSES[twin]
            shares += [
                (twin, list(chain.from_iterable(processes[i::many])))
                for i in range(many)
                if processes[i:]
            ]
        with Team([twin for twin, _ in shares], threads=1, plants="library") as team:
            team.begin({name: jobs for name, (_, jobs) in zip(team.names, shares)}, report)
            errors = team.finish()
        places = list(settings)
        return tuple(
            _outcome(
                fault, engine, settings[fault.right], places.index(fault.right), folder, errors
            )
            for fault in faults
            for engine in ENGINES
        )


def _setting(recipe: Recipe) -> _Setting:
    data, exact = prepare(recipe), recipe.with_dtype("float64")
    return _Setting(data, train_oracle(exact, data, bounds=False), float64_bounds(exact, data))


def _jobs(
    faults: Sequence[LibraryFault], recipes: Sequence[Recipe], twin: str, folder: Path
) -> Iterator[list[Job]]:
    """The trainings of each process of a twin: a recipe without a fault, then each fault, with both
    engines.
    """
    mine = [fault for fault in faults if fault.twin == twin]
    right = [
        (_name(recipes.index(recipe), twin), "", recipe)
        for recipe in dict.fromkeys(f.right for f in mine)
    ]
    for name, key, recipe in right + [(fault.key, fault.key, fault.right) for fault in mine]:
        data = folder / f"{recipes.index(recipe)}.data"
        yield [
            Job(
                recipe.with_dtype("float64"),
                data,
                _place(folder, name, engine),
                fault=key,
                engine=engine,
            )
            for engine in ENGINES
        ]


def _name(i: int, twin: str) -> str:
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
    trace, right = (
        Trace.load_unchecked(path) for path in (place, _place(folder, _name(i, fault.twin), engine))
    )
    first = compare_exactly(trace, setting.oracle, setting.derive_bounds).first
    return LibraryOutcome(fault, engine, first, not _same_bits(trace, right))


def _same_bits(a: Trace, b: Trace) -> bool:
    """Of all that is judged: a prediction through the trained model is not."""
    names = [name for name in a.arrays if not name.startswith("prediction/")]
    return all(np.array_equal(a.arrays[name], b.arrays[name], equal_nan=True) for name in names)
