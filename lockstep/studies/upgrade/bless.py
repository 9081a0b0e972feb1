"""Record recipes with every backend, and write the traces as golden."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from lockstep.backends import PACKAGES
from lockstep.data_prep import PreparedData, prepare
from lockstep.diagnose.compare import Limit, bounds_of, compare
from lockstep.diagnose.exact import compare_exactly, float64_bounds
from lockstep.diagnose.verdict import describe_difference, describe_limit
from lockstep.errors import InputError
from lockstep.golden import Key, refuse_other_folder, write_golden
from lockstep.oracle.rounding import AMPLIFIED
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.run.oracles import OracleJob, train_oracles
from lockstep.run.team import Team
from lockstep.run.workers import Interpreter, Job, Report

__all__ = ["EVERY", "Recording", "bless", "golden_recipes", "is_installed", "record"]

EVERY = 1
"""Golden traces have the parameters after every update."""

BASE: dict[str, Any] = {
    # 90 rows in batches of 32: two full ones and one of 26; 9 updates, 4 of them warmup
    "data.rows": 90,
    "data.features": 6,
    "data.classes": 3,
    "model.hidden": (6, 5),
    "model.activation": "tanh",
    "schedule.unit": "update",
    "schedule.warmup": 4,
    "schedule.peak": 0.02,
    "training.epochs": 3,
}
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 0.05,
        "gradient.clip": "norm",
        "gradient.clip_at": 0.5,
        "model.activation": "relu",
    },
    "adamw": {
        "optimizer.name": "adamw",
        "schedule.name": "cosine",
        "model.norm": "layer",
        "model.activation": "gelu",
        "optimizer.decay_on": "weights",
        "loss.label_smoothing": 0.1,
    },
    "amsgrad": {
        "optimizer.name": "adam",
        "optimizer.amsgrad": "corrected",
        "schedule.name": "one_cycle",
        "loss.class_weights": (0.5, 1.0, 2.0),
        "model.dropout": 0.2,
    },
    "nadam": {
        "optimizer.name": "nadam",
        "optimizer.momentum_ramp": False,
        "gradient.accumulate": 2,
        "schedule.warmup": 2,
    },
    "lamb": {"optimizer.name": "lamb", "schedule.name": "inverse_sqrt", "average.decay": 0.9},
    "lion": {
        "optimizer.name": "lion",
        "optimizer.multipliers": (0.5, 1.0, 2.0),
        "schedule.name": "linear",
    },
    "rmsprop": {
        "optimizer.name": "rmsprop",
        "optimizer.centered": True,
        "optimizer.momentum": 0.8,
        "schedule.peak": 0.005,
        "data.classes": 2,
        "loss.name": "binary_cross_entropy",
    },
    "adadelta": {
        "optimizer.name": "adadelta",
        "model.norm": "batch",
        "model.bias": False,
        "schedule.peak": 1.0,
    },
    "adagrad": {"optimizer.name": "adagrad", "optimizer.eps_in_root": True, "loss.name": "huber"},
    "adafactor": {
        "optimizer.name": "adafactor",
        "optimizer.weight_decay": 0.05,
        "loss.name": "mse",
    },
    "muon": {"optimizer.name": "muon", "schedule.name": "wsd"},
    "mixed": {"training.compute": "bfloat16", "model.activation": "relu"},
}
"""What `lockstep bless` records by default: name -> the fields that differ from `BASE`. The recipes
are short, and together have one of each kind.
"""


class Recording(NamedTuple):
    """The traces of recipes."""

    traces: dict[Key, Trace]
    faults: dict[Key, str]
    """Why a trace could not be trained, in one line."""


def golden_recipes() -> dict[str, Recipe]:
    """Name -> recipe, of the recipes that are blessed by default."""
    return {name: Recipe().with_values(BASE | values) for name, values in RECIPES.items()}


def is_installed(backend: str) -> bool:
    """Whether the packages of a twin are installed; nothing is imported."""
    return all(find_spec(package) is not None for package in PACKAGES.get(backend, ()))


def record(
    recipes: Mapping[str, Recipe],
    data: Mapping[str, PreparedData],
    backends: Collection[str],
    *,
    device: str,
    report: Report,
    interpreter: Interpreter | None = None,
) -> Recording:
    """Train every recipe in each of its precisions, and record the parameters after each update.

    Args:
        recipes: name -> recipe.
        data: name -> what it is trained on.
        backends: of torch, jax and oracle. The twins train side by side, each in its own process.
        device: "cpu", "gpu" or "auto", for the twins.
        report: told of each backend's progress.
        interpreter: the environment to train in; None for the present one.

    Raises:
        InputError: a twin cannot be imported there, or the device is not there.
    """
    recording = Recording({}, {})
    keys: dict[str, list[Key]] = {backend: [] for backend in backends}
    for name, recipe in recipes.items():
        for dtype in recipe.forms:
            for backend, of_backend in keys.items():
                of_backend.append(Key(name, dtype, backend))
    twins = [backend for backend in backends if backend != "oracle"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, prepared in data.items():
            prepared.save(folder / f"{name}.data")

        def job(key: Key) -> Job:
            recipe = recipes[key.recipe].forms[key.dtype]
            return Job(recipe, folder / f"{key.recipe}.data", folder / key.file, EVERY)

        jobs = {backend: list(map(job, keys[backend])) for backend in twins}
        with Team(twins, device, interpreter=interpreter) as team:
            team.begin(jobs, report)
            recording.traces.update(_train_oracles(recipes, data, keys.get("oracle", []), report))
            faults = team.finish()
        for key in chain.from_iterable(keys[backend] for backend in twins):
            place = folder / key.file
            if place in faults:
                recording.faults[key] = faults[place]
            else:
                recording.traces[key] = Trace.load_unchecked(place)
    return recording


def _train_oracles(
    recipes: Mapping[str, Recipe],
    data: Mapping[str, PreparedData],
    keys: Sequence[Key],
    report: Report,
) -> dict[Key, Trace]:
    jobs: list[OracleJob] = []
    for key in keys:
        form = recipes[key.recipe].forms[key.dtype]
        jobs.append(OracleJob(form, data[key.recipe], key.dtype == "float32", EVERY))
    return dict(zip(keys, train_oracles(jobs, report)))


def _horizon(oracle: Trace) -> Limit | None:
    """Where the bounds of an oracle's trace end."""
    horizon = oracle.header.get("horizon")
    return Limit(horizon["update"], horizon["reason"]) if horizon else None


def bless(
    folder: Path,
    recipes: Mapping[str, Recipe],
    backends: Collection[str],
    *,
    device: str,
    report: Report,
) -> dict[Key, str]:
    """Train the recipes with the oracle and these backends, and write a golden folder.

    Nothing is written where a trace diverges from the oracle.

    Returns:
        each trace that diverges from the oracle, with a line on how.

    Raises:
        InputError: a backend is not installed; a recipe cannot be trained, or not every update of
            it can be judged; or the folder is no golden one, or has files of somebody else.
    """
    refuse_other_folder(folder)
    for backend in backends:
        if not is_installed(backend):
            raise InputError(
                f"{backend} is not installed: pip install 'lockstep[{backend}]', or leave it out"
            )
    data = {name: prepare(recipe) for name, recipe in recipes.items()}
    recording = record(recipes, data, ["oracle", *backends], device=device, report=report)
    for key, fault in recording.faults.items():
        raise InputError(f"{key.recipe}, {key.dtype}, {key.backend}: cannot be trained: {fault}")
    exact = {
        name: float64_bounds(recipe.with_dtype("float64"), data[name], parameters_every=EVERY)
        for name, recipe in recipes.items()
    }
    diverged = {}
    for key, trace in recording.traces.items():
        truth = recording.traces[key._replace(backend="oracle")]
        if key.dtype == "float64":
            comparison = compare_exactly(trace, truth, exact[key.recipe])
        else:
            comparison = compare(trace, truth, bounds_of(truth) or {})
        if comparison.first is not None:
            diverged[key] = describe_difference(comparison.first)
            continue
        limit = comparison.limit or _horizon(truth)
        if limit is not None and limit.reason != AMPLIFIED:
            raise InputError(
                f"{key.recipe}, {key.dtype}, {key.backend}: {describe_limit(limit)}: "
                "cannot be blessed"
            )
    if not diverged:
        write_golden(folder, recipes, data, recording.traces)
    return diverged
