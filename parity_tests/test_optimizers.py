"""SGD, Adam and their kin: both twins against the oracle, against the libraries' own classes, and faults planted."""

from functools import cache
from typing import Any

import pytest

import jax_impl.train
import pt_impl.train
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.verdict import describe_difference
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.trace import Trace
from parity_tests.recipes_for_tests import oracle_trace, prepared, small_recipe

TWINS = {"torch": pt_impl.train, "jax": jax_impl.train}

# 4 epochs of 50 updates
TABLE: dict[str, Any] = {
    "data__rows": 99,
    "data__features": 4,
    "model__hidden": (5,),
    "model__activation": "tanh",
    "training__batch": 2,
    "training__epochs": 4,
    "schedule__unit": "update",
    "schedule__warmup": 20,
    "schedule__peak": 0.01,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "momentum": 0.0},
    "sgd momentum": {"name": "sgd"},
    "sgd dampening": {"name": "sgd", "dampening": 0.4},
    "sgd dampening L2": {"name": "sgd", "dampening": 0.4, "weight_decay": 0.05},
    "sgd nesterov L2": {"name": "sgd", "nesterov": True, "weight_decay": 0.05},
    "adam": {"name": "adam"},
    "adam L2": {"name": "adam", "weight_decay": 0.05},
    "adam eps in root": {"name": "adam", "eps_in_root": True, "eps": 1e-6},
    "adam amsgrad": {"name": "adam", "amsgrad": "raw", "beta2": 0.9},
    "adam amsgrad corrected": {"name": "adam", "amsgrad": "corrected", "beta2": 0.9},
    "adam amsgrad eps in root L2": {
        "name": "adam",
        "amsgrad": "raw",
        "beta2": 0.9,
        "eps_in_root": True,
        "eps": 1e-6,
        "weight_decay": 0.05,
    },
    "adamw": {"name": "adamw"},
    "adamw step": {"name": "adamw", "decay_form": "step", "weight_decay": 0.05},
    "adamw amsgrad corrected step": {
        "name": "adamw",
        "amsgrad": "corrected",
        "beta2": 0.9,
        "decay_form": "step",
        "weight_decay": 0.05,
    },
    "nadam": {"name": "nadam"},
    "nadam L2, no ramp": {"name": "nadam", "weight_decay": 0.05, "momentum_ramp": False},
    "nadam quick ramp": {"name": "nadam", "momentum_decay": 0.5},
    "nadamw": {"name": "nadamw", "weight_decay": 0.05},
    "nadamw step": {"name": "nadamw", "weight_decay": 0.05, "decay_form": "step"},
    "nadamw step, no ramp": {"name": "nadamw", "weight_decay": 0.05, "decay_form": "step", "momentum_ramp": False},
    "radam": {"name": "radam"},
    "radam eps corrected L2": {"name": "radam", "eps_corrected": True, "eps": 1e-3, "weight_decay": 0.05},
    "radam eps": {"name": "radam", "eps": 1e-3},
    "adamax": {"name": "adamax"},
    "adamax L2": {"name": "adamax", "weight_decay": 0.05, "beta2": 0.9},
    "lamb": {"name": "lamb"},
    "lion": {"name": "lion"},
}


def recipe_of(optimizer: dict[str, Any], dtype: str = "float64", **values: Any) -> Recipe:
    knobs = {f"optimizer__{knob}": value for knob, value in optimizer.items()}
    return small_recipe(**TABLE | knobs | values, training__dtype=dtype)


@cache
def twin_trace(backend: str, recipe: Recipe) -> Trace:
    trace: Trace = TWINS[backend].train(recipe, prepared(recipe), parameters_every=1)
    return trace


@cache
def exact_trace(recipe: Recipe) -> Trace:
    return train_oracle(recipe, prepared(recipe), parameters_every=1, bounds=False)


@pytest.fixture(params=TWINS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("variant", VARIANTS)
def test_200_updates_in_float64_follow_the_oracle(variant: str, backend: str) -> None:
    recipe = recipe_of(VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), exact_trace(recipe)
    assert trace.recorded_updates == list(range(201)) == oracle.recorded_updates
    found = compare(trace, oracle, {})  # without bounds: 1e-12 alone
    assert found.verdict in ("identical", "rounding"), found.first and describe_difference(found.first)


@pytest.mark.parametrize("variant", VARIANTS)
def test_200_updates_in_float32_stay_within_rounding(variant: str, backend: str) -> None:
    recipe = recipe_of(VARIANTS[variant], "float32")
    bounds = bounds_of(oracle_trace(recipe))
    assert bounds
    found = compare(twin_trace(backend, recipe), oracle_trace(recipe), bounds)
    assert found.verdict == "rounding", found.first and describe_difference(found.first)
