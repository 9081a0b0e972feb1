"""Plant every fault in every twin that can have it, and in the libraries, and see what is made of
the traces.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep.backends import BACKENDS
from lockstep.data_prep import PreparedData, prepare
from lockstep.diagnose.compare import Difference
from lockstep.diagnose.diagnosis import diagnose
from lockstep.diagnose.exact import compare_exactly, float64_bounds
from lockstep.diagnose.verdict import describe_difference
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.run.team import Team
from lockstep.run.workers import Job, Report
from lockstep.studies.prove.checker import prove_checker
from lockstep.studies.prove.faults import PlantedFault
from lockstep.studies.prove.libraries import PROCESSES, LibraryOutcome, prove_libraries
from lockstep.studies.prove.library_faults import LibraryFault
from lockstep.studies.prove.naive_rules import JUDGES

__all__ = ["Outcome", "Proof", "prove"]


@dataclass(frozen=True)
class Outcome:
    """What was found of one fault planted in one twin: the first difference, the key of its cause,
    and whether the
    twin was named as the side that is off.

    `fooled` holds the simple rules that call the fault's float32 run equal to the oracle; None
    where it had none. `is_fast_caught` says whether the fast engine's float64 run with the fault
    parts from the oracle; None for a fault in the plain engine's code.
    """

    fault: PlantedFault
    twin: str
    first: Difference | None
    cause: str
    is_named: bool
    fooled: tuple[str, ...] | None
    is_fast_caught: bool | None = None

    @property
    def right(self) -> dict[str, bool]:
        """What is right of what was found: "caught", "update", "stage", "cause" and "side"; and
        "fast".
        """
        first, fault = self.first, self.fault
        return {
            "caught": first is not None,
            "update": first is not None and first.update == fault.update,
            "stage": first is not None and first.stage == fault.stage,
            "cause": self.cause == fault.cause,
            "side": self.is_named or not fault.is_bounded,
            "fast": self.is_fast_caught is not False,
        }

    @property
    def is_located(self) -> bool:
        """All of it is right."""
        return all(self.right.values())


@dataclass(frozen=True)
class Proof:
    """An outcome for each fault and twin; what `prove_checker` gives; the controls: how many
    recipes were trained without a fault, what was said where the twins were then found to differ
    all the same, and how many of these runs each simple rule calls equal to the oracle; and an
    outcome for each library's fault and engine."""

    outcomes: tuple[Outcome, ...]
    checker: dict[str, tuple[str, ...]]
    unpatched: int
    alarms: tuple[str, ...]
    accepted: dict[str, int]
    libraries: tuple[LibraryOutcome, ...] = ()

    @property
    def holds(self) -> bool:
        """Every fault is located, every checker fault exposed, every right case and run called
        right.
        """
        exposed = all(cases for key, cases in self.checker.items() if key)
        located = all(outcome.is_located for outcome in self.outcomes)
        located = located and all(outcome.is_right for outcome in self.libraries)
        return located and exposed and not self.checker[""] and not self.alarms


def prove(
    faults: Sequence[PlantedFault], libraries: Sequence[LibraryFault] = (), *, report: Report
) -> Proof:
    """Train every fault in float64 and, in the first of its twins, in float32, and judge what was
    recorded.

    Args:
        faults: from `lockstep.studies.prove.faults`.
        libraries: from `lockstep.studies.prove.library_faults`.
        report: told of each process's progress.

    Raises:
        InputError: a framework that is not installed, or a process that died.
    """
    recipes = list(dict.fromkeys(fault.right for fault in faults))
    data = [prepare(recipe) for recipe in recipes]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for i, prepared in enumerate(data):
            prepared.save(folder / f"{i}.data")
        backends = [twin for twin, many in PROCESSES.items() for _ in range(many)]
        shares: list[list[Job]] = []
        for twin, many in PROCESSES.items():
            jobs = list(_jobs(faults, recipes, data, twin, folder))
            shares += [jobs[i::many] for i in range(many)]
        with Team(backends, plants="twin") as team:
            team.begin(dict(zip(team.names, shares)), report)
            oracles = [
                train_oracle(recipe, prepared, watch=Watch(detail=range(prepared.updates)))
                for recipe, prepared in zip(recipes, data)
            ]
            checker = prove_checker()
            team.wait()
        outcomes = []
        for fault in faults:
            i = recipes.index(fault.right)
            outcomes += [
                _judge(fault, twin, i, oracles[i], data[i], folder) for twin in fault.twins
            ]
        controls = _without_faults(recipes, data, oracles, folder)
    return Proof(tuple(outcomes), checker, *controls, prove_libraries(libraries, report=report))


def _jobs(
    faults: Sequence[PlantedFault],
    recipes: Sequence[Recipe],
    data: Sequence[PreparedData],
    twin: str,
    folder: Path,
) -> Iterator[Job]:
    """A twin's trainings: every recipe without a fault, then every fault; those in its code, for
    which JAX throws away what it has compiled, come last. In float64 with all detail, in float32
    where the simple rules are asked, and by the fast engine where that has the fault."""
    mine = sorted(
        (fault for fault in faults if twin in fault.twins), key=lambda fault: fault.is_in_code
    )
    runs = [
        (_place(folder, str(i), twin), "", i, twin == BACKENDS[0], True)
        for i in range(len(recipes))
    ]
    for fault in mine:
        i, place = recipes.index(fault.right), _place(folder, fault.key, twin)
        runs.append((place, fault.key, i, twin == fault.twins[0], not fault.is_in_code))
    for place, key, i, is_asked, is_fast in runs:
        fed = folder / f"{i}.data"
        yield Job(recipes[i], fed, place, detail=tuple(range(data[i].updates)), fault=key)
        if is_asked:
            yield Job(recipes[i].with_dtype("float32"), fed, _rounded(place), fault=key)
        if is_fast:
            yield Job(recipes[i], fed, _fast(place), fault=key, engine="fast")


def _place(folder: Path, name: str, twin: str) -> Path:
    return folder / f"{name}.{twin}.trace"


def _rounded(place: Path) -> Path:
    return place.with_suffix(".float32.trace")


def _fast(place: Path) -> Path:
    return place.with_suffix(".fast.trace")


def _fooled(place: Path, oracle: Trace) -> tuple[str, ...]:
    rounded = Trace.load_unchecked(_rounded(place))
    return tuple(rule for rule, holds in JUDGES.items() if holds(rounded, oracle))


def _judge(
    fault: PlantedFault, twin: str, i: int, oracle: Trace, data: PreparedData, folder: Path
) -> Outcome:
    """Hold the twin with the fault against the other one without, and its fast engine against the
    oracle.
    """
    (other,) = set(BACKENDS) - {twin}
    place = _place(folder, fault.key, twin)
    traces = Trace.load_unchecked(place), Trace.load_unchecked(_place(folder, str(i), other))
    found = diagnose(*traces, oracle if fault.is_bounded else None)
    cause = found.cause.key if found.cause else ""
    fooled = _fooled(place, oracle) if twin == fault.twins[0] else None
    fast = None if fault.is_in_code else _fast_difference(place, oracle, data) is not None
    return Outcome(fault, twin, found.first, cause, found.off == "a", fooled, fast)


def _fast_difference(place: Path, oracle: Trace, data: PreparedData) -> Difference | None:
    """Where the fast engine's run parts from the oracle."""
    derive_bounds = float64_bounds(oracle.recipe, data)
    return compare_exactly(Trace.load_unchecked(_fast(place)), oracle, derive_bounds).first


def _without_faults(
    recipes: Sequence[Recipe], data: Sequence[PreparedData], oracles: Sequence[Trace], folder: Path
) -> tuple[int, tuple[str, ...], dict[str, int]]:
    alarms, accepted = [], dict.fromkeys(JUDGES, 0)
    for i, oracle in enumerate(oracles):
        a, b = (_place(folder, str(i), twin) for twin in BACKENDS)
        parted = [diagnose(Trace.load_unchecked(a), Trace.load_unchecked(b), oracle).first]
        parted += [_fast_difference(place, oracle, data[i]) for place in (a, b)]
        alarms += [
            describe_difference(difference) for difference in parted if difference is not None
        ]
        for rule in _fooled(a, oracle):
            accepted[rule] += 1
    return len(oracles), tuple(alarms), accepted
