"""Mixed precision: products and activations in bfloat16, all else in the recipe's dtype."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import jax_impl.fast.train
import jax_impl.model
import jax_impl.train
import pt_impl.fast.train
import pt_impl.model
import pt_impl.train
from lockstep.diagnose.compare import bounds_of
from lockstep.oracle.arithmetic import BFLOAT16, Perturbed
from lockstep.oracle.trajectory import _to_bfloat16, rows_of
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.schedules.formulas import learning_rates
from parity_tests.shared.recipes import oracle_trace, prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS, forget_compiled, of_pair, patch_pair
from parity_tests.shared.verdicts import assert_rounding, first_place

FAST: dict[str, Any] = {"torch": pt_impl.fast.train, "jax": jax_impl.fast.train}
MIXED = {"training__compute": "bfloat16"}
VARIANTS: dict[str, dict[str, Any]] = {
    "momentum": MIXED,
    "adamw, tanh": MIXED
    | {"optimizer__name": "adamw", "model__activation": "tanh", "schedule__peak": 0.005},
    "layer norm, gelu": MIXED | {"model__norm": "layer", "model__activation": "gelu"},
    "batch norm, dropout": MIXED
    | {"model__norm": "batch", "model__dropout": 0.2, "model__hidden": (12, 10)},
    "accumulate, clip, average": MIXED
    | {
        "gradient__accumulate": 2,
        "gradient__clip": "norm",
        "gradient__clip_at": 0.2,
        "average__decay": 0.9,
    },
    "binary": MIXED | {"loss__name": "binary_cross_entropy", "data__classes": 2},
    "sixty updates": MIXED | {"training__epochs": 20},
}


@cache
def trace_of(backend: str, recipe: Recipe) -> Trace:
    trace: Trace = TWINS[backend].train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    return trace


CHOSEN = ["adamw, tanh", "batch norm, dropout", "accumulate, clip, average", "binary"]


@pytest.mark.parametrize("variant", sweep_but(CHOSEN, VARIANTS))
def test_both_twins_stay_within_rounding(variant: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    oracle = oracle_trace(recipe)
    in_torch, in_jax = trace_of("torch", recipe), trace_of("jax", recipe)
    assert_rounding(in_torch, oracle)
    assert_rounding(in_jax, oracle)
    assert_rounding(in_torch, in_jax, bounds_of(oracle))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", ["torch", pytest.param("jax", marks=pytest.mark.sweep)])
def test_the_fast_engines_stay_within_rounding_too(backend: str, variant: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    oracle = oracle_trace(recipe)
    trace = FAST[backend].train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    assert_rounding(trace, oracle)
    # as far from float32 as plain: it did compute in bfloat16
    in_float32 = small_recipe(**VARIANTS[variant] | {"training__compute": "same"})
    exact = trace_of("torch", in_float32).series("loss")
    plain = trace_of(backend, recipe).series("loss")
    distance = np.abs(trace.series("loss") - exact).max()
    assert 0.2 < distance / np.abs(plain - exact).max() < 5


def test_the_rate_and_what_is_kept_are_of_the_recipes_dtype(backend: str) -> None:
    recipe = small_recipe(**VARIANTS["batch norm, dropout"])
    trace = trace_of(backend, recipe)
    np.testing.assert_array_equal(trace.series("lr"), learning_rates(recipe, 3).astype(np.float32))
    updates = [array for name, array in trace.arrays.items() if not name.startswith("epochs/")]
    assert {array.dtype for array in updates} == {np.dtype(np.float32)}


def test_products_are_in_bfloat16(backend: str) -> None:
    """bfloat16 can hold the logits of the first forward pass; those of float32 it cannot."""
    for compute, expected in (("bfloat16", True), ("same", False)):
        recipe = small_recipe(training__compute=compute)
        data = prepared(recipe).cast(np.float32)
        if backend == "torch":
            model = pt_impl.model.build_model(recipe, data, torch.device("cpu"))
            logits = model(torch.from_numpy(data.train_x_ND))
            assert logits.dtype == torch.float32
            logits_NK = logits.detach().numpy()
        else:
            model = jax_impl.model.build_model(recipe, data, jax.devices("cpu")[0])
            logits = model(jnp.asarray(data.train_x_ND))
            assert logits.dtype == jnp.float32
            logits_NK = np.asarray(logits)
        assert (logits_NK == _to_bfloat16(logits_NK)).all() == expected


def test_the_features_are_rounded_as_both_frameworks_do() -> None:
    recipe = small_recipe(**MIXED)
    data = prepared(recipe)
    rounded_ND = rows_of(recipe, data).train_x_ND
    x_ND = data.cast(np.float32).train_x_ND
    in_torch = torch.from_numpy(x_ND).to(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(in_torch, rounded_ND)
    in_jax = jnp.asarray(x_ND).astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(np.asarray(in_jax), rounded_ND)
    assert not np.array_equal(x_ND, rounded_ND)


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_bfloat16_is_to_nearest_even(value: float) -> None:
    expected = torch.tensor(value, dtype=torch.float32).to(torch.bfloat16).double().item()
    assert _to_bfloat16(np.array([value]))[0] == expected


def test_casts_are_rounded_once_and_nothing_else_is() -> None:
    mixed, plain = Perturbed(4, 2.0**-24, 0, BFLOAT16), Perturbed(4, 2.0**-24, 0)
    ones = np.ones((5, 3, 2))
    assert plain.compute is plain
    assert plain.cast(ones) is ones
    first = mixed.compute.cast(ones, "linear1.weight")
    again = mixed.compute.cast(ones, "linear1.weight")
    np.testing.assert_array_equal(first, again)
    assert set(np.abs(first[1:] - 1).ravel()) == {BFLOAT16}
    np.testing.assert_array_equal(first[0], 1)
    assert np.abs(mixed.round(ones) - 1).max() == 2.0**-24


def test_float64_computes_in_float64() -> None:
    assert small_recipe(**MIXED).with_dtype("float64").training.compute == "same"
    assert small_recipe(**MIXED).with_dtype("float32").training.compute == "bfloat16"


# --- planted faults


def halved_logits(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = TWINS[twin]
    original = of_pair(module, "mean_loss")

    def mean_loss(loss: Any, outputs: Any, *rest: Any) -> Any:
        return original(loss, outputs * 0.5, *rest)

    patch_pair(monkeypatch, module, "mean_loss", mean_loss)


def parameters_in_bfloat16(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters are rounded after each update, so small steps are lost."""
    if twin == "torch":
        step = torch.optim.SGD.step

        def rounded(self: Any, closure: Any = None) -> None:
            step(self)
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.copy_(parameter.to(torch.bfloat16))

        monkeypatch.setattr(torch.optim.SGD, "step", rounded)
        return
    original = optax.apply_updates

    def apply_rounded(parameters: Any, steps: Any) -> Any:
        after = original(parameters, steps)
        return jax.tree.map(lambda new: new.astype(jnp.bfloat16).astype(jnp.float32), after)

    monkeypatch.setattr(optax, "apply_updates", apply_rounded)


FAULTS: dict[str, tuple[Callable[[str, pytest.MonkeyPatch], None], str, int]] = {
    "logits halved": (halved_logits, "loss", 0),
    "parameters in bfloat16": (parameters_in_bfloat16, "update", 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught_at_its_place(
    fault: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, stage, update = FAULTS[fault]
    recipe = small_recipe(schedule__peak=0.002, **MIXED)
    oracle = oracle_trace(recipe)
    bounds = bounds_of(oracle)
    assert bounds
    plant(backend, monkeypatch)
    forget_compiled()
    trace = TWINS[backend].train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    forget_compiled()
    assert first_place(trace, oracle, bounds) == (stage, update)
