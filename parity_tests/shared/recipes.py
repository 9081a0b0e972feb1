"""Small recipes that the parity tests share."""

from functools import cache
from typing import Any

from lockstep.data_prep import PreparedData, prepare
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace

# 90 rows in batches of 32: two full ones and one of 26
SMALL: dict[str, Any] = {
    "data.rows": 90,
    "data.features": 6,
    "data.classes": 3,
    "model.hidden": (6, 5),
    "schedule.warmup": 2,
    "schedule.peak": 0.05,
    "training.epochs": 4,
}


def small_recipe(**values: Any) -> Recipe:
    """The small recipe with fields changed: `small_recipe(optimizer__name="adamw")`."""
    return Recipe().with_values(
        SMALL | {name.replace("__", "."): value for name, value in values.items()}
    )


@cache
def prepared(recipe: Recipe) -> PreparedData:
    return prepare(recipe)


@cache
def exact_trace(recipe: Recipe) -> Trace:
    """The oracle's trace alone: bounds on rounding take tens of perturbed copies."""
    return train_oracle(recipe, prepared(recipe), watch=Watch(parameters_every=1), bounds=False)


@cache
def oracle_trace(recipe: Recipe, parameters_every: int = 1) -> Trace:
    return train_oracle(recipe, prepared(recipe), watch=Watch(parameters_every=parameters_every))
