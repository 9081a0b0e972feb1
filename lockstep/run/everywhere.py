"""A whole run: prepare once, train the oracle here and both twins beside it, judge, and fill a run
folder.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lockstep.backends import BACKENDS
from lockstep.data_prep import PreparedData, Table
from lockstep.data_prep.row_cache import prepare_cached
from lockstep.diagnose.exact import float64_bounds
from lockstep.diagnose.verdict import Verdict, judge
from lockstep.recipe import Recipe, Schedule
from lockstep.records.trace import Trace
from lockstep.run.oracles import OracleJob, train_oracles
from lockstep.run.team import Team
from lockstep.run.workers import Job, Report

__all__ = ["Run", "contrast_schedule", "train_everywhere"]


@dataclass(frozen=True)
class Run:
    """All that one `lockstep run` trained. Each mapping has the keys torch, jax and oracle.

    `traces` are of the recipe as it is, `semantics` of the recipe in float64 by the plain engine,
    and `contrast` of the recipe without its warmup. `fast` has torch and jax alone, of the recipe
    in float64 by the fast engine, where that trained `traces`; else it is empty.
    """

    recipe: Recipe
    table: Table
    data: PreparedData
    traces: dict[str, Trace]
    semantics: dict[str, Trace]
    contrast: dict[str, Trace]
    fast: dict[str, Trace]
    verdict: Verdict


def contrast_schedule(recipe: Recipe, updates_per_epoch: int) -> Schedule:
    """The schedule to hold the recipe's against. It is the recipe's without its warmup. Where the
    recipe has none, it has one over the first half of the epochs, or of a schedule that ends
    sooner.
    """
    schedule = recipe.schedule
    if recipe.warmup:
        return schedule.without_warmup(recipe.warmup)
    unit = 1 if schedule.unit == "epoch" else updates_per_epoch
    half = (recipe.training.epochs + 1) // 2 * unit
    if schedule.length:
        half = min(half, (schedule.length + 1) // 2)
    return schedule.with_warmup(half, schedule.length or recipe.training.epochs * unit)


def train_everywhere(
    recipe: Recipe,
    folder: Path,
    team: Team,
    *,
    report: Report,
    engine: str = "auto",
    library_faults: Mapping[str, str] | None = None,
) -> Run:
    """Train the recipe, its float64 form and its contrast with the oracle and both twins.

    The float64 form is trained by the plain engine, whose optimizers and layers are those of the
    frameworks, and by the fast one beside it where that trains the rest.

    Args:
        recipe: what to train.
        folder: where the traces go: `torch.trace`, `jax.trace`, `oracle.trace`, and those of the
            other forms in `float64/`, `float64/fast/` and `contrast/`.
        team: a worker for each backend, with the same engine; it is started before this module is
            loaded.
        report: told of each backend's progress.
        engine: "plain", "fast" or "auto", for both twins.
        library_faults: backend -> key of the fault to plant in its library, of
        `lockstep.studies.prove.library_faults`.

    Raises:
        InputError: data that cannot be trained on, a device or framework that is not there.
    """
    table, data = prepare_cached(recipe)
    forms = _forms(recipe, folder, data.updates_per_epoch, engine)
    for form in forms.values():
        form.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        shared = Path(scratch) / "data"
        data.save(shared)
        team.begin(_jobs(forms, shared, library_faults or {}), report)
        of_oracle = [name for name in forms if name != "fast"]
        oracle_jobs = [OracleJob(forms[name].recipe, data, name == "traces") for name in of_oracle]
        oracles = dict(zip(of_oracle, train_oracles(oracle_jobs, report)))
        team.wait()
    trained = {name: form.load() for name, form in forms.items()}
    for name, oracle in oracles.items():
        oracle.save(forms[name].folder / "oracle.trace")
        trained[name]["oracle"] = oracle
    fast = trained.get("fast", {})

    exact = forms["semantics"]
    place = exact.folder / "oracle.trace"
    derive_bounds = float64_bounds(exact.recipe, data, receive=lambda oracle: oracle.save(place))
    return Run(
        recipe=recipe,
        table=table,
        data=data,
        traces=trained["traces"],
        semantics=trained["semantics"],
        contrast=trained["contrast"],
        fast=fast,
        verdict=judge(trained["traces"], trained["semantics"], fast, derive_bounds=derive_bounds),
    )


class _Form(NamedTuple):
    """One of the trainings of a run: the folder of its traces, what is trained, and the engine; ""
    is the worker's own.
    """

    folder: Path
    recipe: Recipe
    engine: str

    def job(self, data: Path, backend: str, fault: str | None) -> Job:
        return Job(
            self.recipe, data, self.folder / f"{backend}.trace", fault=fault, engine=self.engine
        )

    def load(self) -> dict[str, Trace]:
        return {
            backend: Trace.load_unchecked(self.folder / f"{backend}.trace") for backend in BACKENDS
        }


def _forms(recipe: Recipe, folder: Path, updates_per_epoch: int, engine: str) -> dict[str, _Form]:
    """The trainings of a run, by the names that they have in `Run`."""
    exact = recipe.with_dtype("float64")
    contrast = replace(recipe, schedule=contrast_schedule(recipe, updates_per_epoch))
    forms = {
        "traces": _Form(folder, recipe, ""),
        "semantics": _Form(folder / "float64", exact, "plain"),
        "contrast": _Form(folder / "contrast", contrast, ""),
    }
    if engine != "plain":
        forms["fast"] = _Form(folder / "float64" / "fast", exact, "fast")
    return forms


def _jobs(
    forms: Mapping[str, _Form], data: Path, library_faults: Mapping[str, str]
) -> dict[str, list[Job]]:
    """Backend -> a job for each form."""
    jobs: dict[str, list[Job]] = {}
    for backend in BACKENDS:
        fault = library_faults.get(backend)
        jobs[backend] = [form.job(data, backend, fault) for form in forms.values()]
    return jobs
