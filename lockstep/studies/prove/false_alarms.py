"""Runs without a fault, which show whether the comparison calls any of them wrong."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count as numbers
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

from lockstep.backends import BACKENDS
from lockstep.data_prep import prepare
from lockstep.diagnose.compare import Difference, Limit, bounds_of, compare
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.run.team import Team
from lockstep.run.workers import Job, Report

__all__ = ["CHAOTIC", "RightRun", "chaotic_recipe", "right_runs"]

RECIPES: dict[str, dict[str, Any]] = {
    "SGD with momentum, relu": {},
    "AdamW, relu": {"optimizer.name": "adamw", "optimizer.weight_decay": 0.01},
    "AdamW, tanh, cosine": {
        "optimizer.name": "adamw",
        "model.activation": "tanh",
        "schedule.name": "cosine",
    },
    "Nesterov and weight decay, relu, two hidden layers": {
        "optimizer.nesterov": True,
        "model.hidden": (24, 16),
        "optimizer.weight_decay": 1e-3,
    },
    "Adam, gelu, layer normalisation, dropout, clipping": {
        "optimizer.name": "adam",
        "model.activation": "gelu",
        "model.norm": "layer",
        "model.dropout": 0.2,
        "gradient.clip": "norm",
    },
}
"""Name -> the fields that differ from the default recipe."""

SMALL: dict[str, Any] = {
    "data.rows": 156,
    "data.features": 13,
    "data.classes": 3,
    "model.hidden": (14, 14),
    "model.activation": "gelu",
    "schedule.name": "constant",
    "schedule.warmup": 0,
    "training.batch": 16,
}
CHAOTIC: dict[str, tuple[dict[str, Any], tuple[float, float]]] = {
    "Rprop that grows by 1.9": (
        {
            "optimizer.name": "rprop",
            "optimizer.grow": 1.9,
            "optimizer.step_max": 5.0,
            "training.epochs": 8,
        },
        (0.02, 0.3),
    ),
    "SGD with momentum at a high rate": (
        {"optimizer.name": "sgd", "optimizer.momentum": 0.9, "training.epochs": 20},
        (0.13, 2.5),
    ),
    "Adam at a high rate": ({"optimizer.name": "adam", "training.epochs": 20}, (0.03, 2.5)),
}
"""Trainings that amplify rounding without end: name -> the fields that differ from `SMALL`, and the
range of the rate.
"""
GOLDEN_RATIO = 0.6180339887498949
Dtype = Literal["float32", "float64"]
DTYPES: tuple[Dtype, ...] = ("float32", "float64")
Key = tuple[int, str, Dtype]
"""The seed, the recipe's name and the precision of a run."""


@dataclass(frozen=True)
class RightRun:
    """One run without a fault against the oracle."""

    recipe: str
    dtype: str
    seed: int
    twin: str
    ratio: float
    """The largest error over its bound."""
    first: Difference | None
    """Where the run was called wrong."""
    limit: Limit | None
    """Where judging ends."""


def right_runs(number: int, *, report: Report) -> list[RightRun]:
    """Runs over seeds, recipes, precisions and both twins in turn, half of them chaotic.

    Args:
        number: how many runs; an odd number is rounded up.
        report: told of each backend's progress.

    Raises:
        InputError: a framework is not installed, or a process died.
    """
    pairs = (number + 1) // 2
    chosen = [*islice(_keys(RECIPES), (pairs + 1) // 2), *islice(_keys(CHAOTIC), pairs // 2)]
    with tempfile.TemporaryDirectory() as scratch, Team(BACKENDS) as team:
        folder = Path(scratch)
        recipes = [_recipe(*key) for key in chosen]
        data = [prepare(recipe) for recipe in recipes]
        for i, prepared in enumerate(data):
            prepared.save(folder / f"{i}.data")
        jobs: dict[str, list[Job]] = {}
        for twin in BACKENDS:
            jobs[twin] = [
                Job(recipe, folder / f"{i}.data", folder / f"{i}.{twin}.trace")
                for i, recipe in enumerate(recipes)
            ]
        team.begin(jobs, report)
        oracles = [train_oracle(recipe, prepared) for recipe, prepared in zip(recipes, data)]
        team.wait()
        runs = []
        for i, (key, oracle) in enumerate(zip(chosen, oracles)):
            for twin in BACKENDS:
                trace = Trace.load_unchecked(folder / f"{i}.{twin}.trace")
                runs.append(_judge(key, twin, trace, oracle))
        return runs


def chaotic_recipe(name: str, seed: int, dtype: Dtype) -> Recipe:
    """One of `CHAOTIC`. The seeds spread the rate over its range, evenly in its logarithm."""
    values, (lowest, highest) = CHAOTIC[name]
    peak = lowest * (highest / lowest) ** ((seed + 1) * GOLDEN_RATIO % 1)
    drawn = {
        "schedule.peak": peak,
        "data.seed": seed,
        "training.seed": seed,
        "training.dtype": dtype,
    }
    return Recipe().with_values(SMALL | values | drawn)


def _keys(names: Iterable[str]) -> Iterator[Key]:
    for seed in numbers():
        for name, dtype in product(names, DTYPES):
            yield seed, name, dtype


def _recipe(seed: int, name: str, dtype: Dtype) -> Recipe:
    if name in CHAOTIC:
        return chaotic_recipe(name, seed, dtype)
    values = {"data.seed": seed, "training.seed": seed, "training.dtype": dtype}
    return Recipe().with_values(RECIPES[name] | values)


def _judge(key: Key, twin: str, trace: Trace, oracle: Trace) -> RightRun:
    seed, name, dtype = key
    comparison = compare(trace, oracle, bounds_of(oracle) or {})
    ratio = max(worst.ratio for worst in comparison.worst.values())
    return RightRun(name, dtype, seed, twin, ratio, comparison.first, comparison.limit)
