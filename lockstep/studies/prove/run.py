"""Plant every fault in every twin that can have it, and in the libraries, and judge the traces."""

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
from lockstep.studies.prove.checker_faults import prove_checker
from lockstep.studies.prove.faults import PlantedFault
from lockstep.studies.prove.library_faults import LibraryFault
from lockstep.studies.prove.naive_rules import RULES
from lockstep.studies.prove.own_loops.run import LoopProof
from lockstep.studies.prove.prove_libraries import PROCESSES, LibraryOutcome, prove_libraries

__all__ = ["Outcome", "Proof", "prove"]


@dataclass(frozen=True)
class Outcome:
    """The diagnosis of one fault planted in one twin."""

    fault: PlantedFault
    twin: str
    first: Difference | None
    """The first difference."""
    cause: str
    """The key of its cause; "" for none."""
    is_named: bool
    """Whether the twin was named as the side that is off."""
    fooled: tuple[str, ...] | None
    """The simple rules that call the fault's float32 run equal to the oracle; None without one."""
    is_fast_caught: bool | None = None
    """Whether the fast engine's float64 run with the fault parts from the oracle; None for a fault
    in the plain engine's code."""

    @property
    def right(self) -> dict[str, bool]:
        """Which answers are right: "caught", "update", "stage", "cause", "side" and "fast"."""
        first = self.first
        fault = self.fault
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
        """Whether all answers are right."""
        return all(self.right.values())


@dataclass(frozen=True)
class Proof:
    """The whole proof."""

    outcomes: tuple[Outcome, ...]
    """An outcome for each fault and twin."""
    checker: dict[str, tuple[str, ...]]
    """What `prove_checker` gives."""
    unpatched: int
    """How many recipes were trained without a fault."""
    alarms: tuple[str, ...]
    """The differences that were found in these trainings all the same."""
    accepted: dict[str, int]
    """Simple rule -> how many of these trainings it calls equal to the oracle."""
    libraries: tuple[LibraryOutcome, ...] = ()
    """An outcome for each library's fault and engine."""
    loops: LoopProof | None = None
    """What was found in own loops."""

    @property
    def holds(self) -> bool:
        """Whether every fault is located, every checker fault exposed, and all that is right is
        called right.
        """
        is_located = all(outcome.is_located for outcome in self.outcomes)
        is_placed = all(outcome.is_right for outcome in self.libraries)
        is_exposed = all(cases for key, cases in self.checker.items() if key)
        has_false_alarms = bool(self.checker[""] or self.alarms)
        are_loops_right = self.loops is None or self.loops.holds
        return is_located and is_placed and is_exposed and are_loops_right and not has_false_alarms


def prove(
    faults: Sequence[PlantedFault], libraries: Sequence[LibraryFault] = (), *, report: Report
) -> Proof:
    """Train every fault in float64, and in the first of its twins in float32, and judge the traces.

    Args:
        faults: from `lockstep.studies.prove.faults`.
        libraries: from `lockstep.studies.prove.library_faults`.
        report: told of each process's progress.

    Raises:
        InputError: a framework is not installed, or a process died.
    """
    recipes = list(dict.fromkeys(fault.right for fault in faults))
    data = [prepare(recipe) for recipe in recipes]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for i, prepared in enumerate(data):
            prepared.save(folder / f"{i}.data")
        backends: list[str] = []
        shares: list[list[Job]] = []
        for twin, processes in PROCESSES.items():
            jobs = list(_jobs(faults, recipes, data, twin, folder))
            backends += [twin] * processes
            shares += [jobs[i::processes] for i in range(processes)]
        with Team(backends, plants="twin") as team:
            team.begin(dict(zip(team.names, shares)), report)
            oracles = []
            for recipe, prepared in zip(recipes, data):
                watch = Watch(detail=range(prepared.updates))
                oracles.append(train_oracle(recipe, prepared, watch=watch))
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
    """A twin's trainings: every recipe without a fault, then every fault.

    A training is in float64 with all detail; in float32 too, where the simple rules are asked; and
    by the fast engine too, where that has the fault. Faults in the twin's code come last, because
    JAX throws away for them what it has compiled.
    """
    runs = []
    for i in range(len(recipes)):
        place = _place(folder, str(i), twin)
        runs.append((place, "", i, twin == BACKENDS[0], True))
    own = [fault for fault in faults if twin in fault.twins]
    for fault in sorted(own, key=lambda fault: fault.is_in_code):
        place = _place(folder, fault.key, twin)
        i = recipes.index(fault.right)
        runs.append((place, fault.key, i, twin == fault.twins[0], not fault.is_in_code))
    for place, key, i, with_rules, with_fast in runs:
        data_file = folder / f"{i}.data"
        yield Job(recipes[i], data_file, place, detail=tuple(range(data[i].updates)), fault=key)
        if with_rules:
            yield Job(recipes[i].with_dtype("float32"), data_file, _rounded(place), fault=key)
        if with_fast:
            yield Job(recipes[i], data_file, _fast(place), fault=key, engine="fast")


def _place(folder: Path, name: str, twin: str) -> Path:
    return folder / f"{name}.{twin}.trace"


def _rounded(place: Path) -> Path:
    return place.with_suffix(".float32.trace")


def _fast(place: Path) -> Path:
    return place.with_suffix(".fast.trace")


def _fooled(place: Path, oracle: Trace) -> tuple[str, ...]:
    """The simple rules that call the float32 run equal to the oracle."""
    rounded = Trace.load_unchecked(_rounded(place))
    return tuple(rule for rule, holds in RULES.items() if holds(rounded, oracle))


def _judge(
    fault: PlantedFault, twin: str, i: int, oracle: Trace, data: PreparedData, folder: Path
) -> Outcome:
    """Diagnose the twin with the fault against the other one without, and compare its fast engine
    with the oracle.
    """
    (other,) = set(BACKENDS) - {twin}
    place = _place(folder, fault.key, twin)
    faulty = Trace.load_unchecked(place)
    right = Trace.load_unchecked(_place(folder, str(i), other))
    diagnosis = diagnose(faulty, right, oracle if fault.is_bounded else None)
    cause = diagnosis.cause.key if diagnosis.cause else ""
    fooled = _fooled(place, oracle) if twin == fault.twins[0] else None
    fast = None if fault.is_in_code else _fast_difference(place, oracle, data) is not None
    return Outcome(fault, twin, diagnosis.first, cause, diagnosis.off == "a", fooled, fast)


def _fast_difference(place: Path, oracle: Trace, data: PreparedData) -> Difference | None:
    """The first difference of the fast engine's run from the oracle."""
    derive_bounds = float64_bounds(oracle.recipe, data)
    return compare_exactly(Trace.load_unchecked(_fast(place)), oracle, derive_bounds).first


def _without_faults(
    recipes: Sequence[Recipe], data: Sequence[PreparedData], oracles: Sequence[Trace], folder: Path
) -> tuple[int, tuple[str, ...], dict[str, int]]:
    """`unpatched`, `alarms` and `accepted` of the proof."""
    alarms = []
    accepted = dict.fromkeys(RULES, 0)
    for i, oracle in enumerate(oracles):
        a, b = (_place(folder, str(i), twin) for twin in BACKENDS)
        differences = [diagnose(Trace.load_unchecked(a), Trace.load_unchecked(b), oracle).first]
        differences += [_fast_difference(place, oracle, data[i]) for place in (a, b)]
        alarms += [describe_difference(each) for each in differences if each is not None]
        for rule in _fooled(a, oracle):
            accepted[rule] += 1
    return len(oracles), tuple(alarms), accepted
