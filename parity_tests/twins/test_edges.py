"""At the edges of the numbers both engines of both twins do what the oracle does.

The edges are logits of -inf, batches of which no row counts, saturated and dead units, masks that
keep all or nothing, and tiny and huge rates and norms.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jax_impl.fast.train
import jax_impl.train
import pt_impl.fast.train
import pt_impl.train
from lockstep.data_prep import PreparedData, prepare
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from parity_tests.shared.recipes import prepared, small_recipe
from parity_tests.shared.verdicts import assert_verdict

TORCH: dict[str, Any] = {"torch plain": pt_impl.train, "torch fast": pt_impl.fast.train}
JAX: dict[str, Any] = {"jax plain": jax_impl.train, "jax fast": jax_impl.fast.train}
ENGINES = TORCH | JAX
ONE = {
    "training__epochs": 1,
    "model__hidden": (),
    "schedule__warmup": 0,
    "schedule__name": "constant",
}

Edit = Callable[[PreparedData], PreparedData]


def below_all(data: PreparedData) -> PreparedData:
    """The last class has a logit of -inf in every row: its sum of finite products leaves float32.
    No row is of that class.
    """
    parameters = {name: array.copy() for name, array in data.parameters.items()}
    parameters["linear1.weight"][:, -1], parameters["linear1.bias"][-1] = -2e38, -3e38
    last = data.outputs - 2
    return replace(
        data,
        parameters=parameters,
        train_x_ND=np.abs(data.train_x_ND),
        held_out_x_ND=np.abs(data.held_out_x_ND),
        train_y_N=np.minimum(data.train_y_N, last),
        held_out_y_N=np.minimum(data.held_out_y_N, last),
    )


def hardly_counted(data: PreparedData) -> PreparedData:
    """Only three rows count. A batch without any of them has no mean."""
    y_N = np.full_like(data.train_y_N, -1)
    y_N[:3] = 0
    return replace(data, train_y_N=y_N)


CLASSES: dict[str, tuple[dict[str, Any], Edit]] = {
    "a logit of -inf": ({}, below_all),
    "a logit of -inf, weighted classes": ({"loss__class_weights": (1.0, 2.0, 0.5)}, below_all),
    "no row counts": ({"loss__ignored_class": "1"}, hardly_counted),
    "no row counts, weighted classes": (
        {"loss__ignored_class": "1", "loss__class_weights": (2.0, 0.5)},
        hardly_counted,
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CLASSES)
def test_cross_entropy_at_the_edge_is_the_oracles(case: str, engine: str) -> None:
    values, edit = CLASSES[case]
    recipe = small_recipe(**(ONE | values))
    data = edit(prepared(recipe))
    truth = train_oracle(recipe, data, bounds=False)
    trace = ENGINES[engine].train(recipe, data)
    assert np.isfinite(truth.series("loss")).any()
    assert np.isfinite(truth.series("loss")).all() == ("counts" not in case)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(trace.series(name), truth.series(name), rtol=1e-5, err_msg=name)
    for name, array in truth.parameters(data.updates).items():
        np.testing.assert_allclose(
            trace.parameters(data.updates)[name], array, rtol=1e-4, atol=1e-6, err_msg=name
        )


# --- drawn


ACTIVATIONS = (
    "relu",
    "leaky_relu",
    "tanh",
    "sigmoid",
    "silu",
    "gelu",
    "gelu_tanh",
    "elu",
    "softplus",
    "mish",
)
OPTIMIZERS = (
    "sgd",
    "adam",
    "adamw",
    "rmsprop",
    "adagrad",
    "nadam",
    "radam",
    "adamax",
    "adadelta",
    "lamb",
)
LOSSES: dict[str, dict[str, Any]] = {
    "cross entropy": {},
    "smoothed, weighted": {"loss__label_smoothing": 0.2, "loss__class_weights": (1.0, 3.0, 0.1)},
    "ignored": {"loss__ignored_class": "1"},
    "one logit": {
        "loss__name": "binary_cross_entropy",
        "data__classes": 2,
        "loss__positive_weight": 30.0,
    },
    "squares": {"loss__name": "mse"},
    "huber": {"loss__name": "huber", "loss__delta": 1e-3},
}
RATES = (1e-30, 1e-12, 1e-3, 1.0, 1e6)
CLIPS: tuple[dict[str, Any], ...] = (
    {},
    {"gradient__clip": "norm", "gradient__clip_at": 1e-20, "gradient__clip_eps": 1e-6},
    {"gradient__clip": "norm", "gradient__clip_at": 1e20},
    {"gradient__clip": "value", "gradient__clip_at": 1e-12},
)
SCALES = (0.0, 1e-3, 1.0, 30.0, 1e4)
"""Of the initial parameters: all units dead or linear, usual, saturated."""


@st.composite
def edges(draw: st.DrawFn) -> tuple[Recipe, float]:
    """A recipe of a few updates, and the scale of its initial parameters."""
    values = draw(st.sampled_from(list(LOSSES.values()))) | draw(st.sampled_from(CLIPS))
    name = draw(st.sampled_from(OPTIMIZERS))
    values |= {
        "optimizer__name": name,
        "optimizer__weight_decay": draw(st.sampled_from([0.0, 1e-8, 10.0])),
    }
    if name == "radam":
        values["optimizer__weight_decay"] = 0.0
    recipe = small_recipe(
        model__activation=draw(st.sampled_from(ACTIVATIONS)),
        # no unit is dropped, or nearly all are
        model__dropout=draw(st.sampled_from([0.0, 1e-9, 0.9999])),
        schedule__peak=draw(st.sampled_from(RATES)),
        schedule__warmup=draw(st.sampled_from([0, 1])),
        training__dtype=draw(st.sampled_from(["float32", "float64"])),
        training__epochs=2,
        training__seed=draw(st.integers(0, 3)),
        **values,
    )
    return recipe, draw(st.sampled_from(SCALES))


def follows(engine: str, recipe: Recipe, scale: float) -> None:
    """Each update of the engine lies within the oracle's bounds, as far as these are numbers."""
    data = prepare(recipe)
    scaled = {name: scale * array for name, array in data.parameters.items()}
    data = replace(data, parameters=scaled)
    truth = train_oracle(recipe, data, watch=Watch(parameters_every=1))
    trace = ENGINES[engine].train(recipe, data, watch=Watch(parameters_every=1))
    comparison = compare(trace, truth, bounds_of(truth) or {})
    assert_verdict(comparison, "identical", "rounding", "inconclusive")


@pytest.mark.sweep
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(edges())
def test_drawn_edges_follow_the_oracle(engine: str, drawn: tuple[Recipe, float]) -> None:
    follows(engine, *drawn)
