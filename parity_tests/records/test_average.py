"""The moving average of the parameters: kept, recorded and compared."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pt_impl.train
from lockstep.diagnose.compare import compare
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from parity_tests.shared.recipes import exact_trace, oracle_trace, prepared, small_recipe
from parity_tests.shared.twins import TWINS, forget_compiled, of_pair, patch_pair, twin_trace
from parity_tests.shared.verdicts import assert_rounding, assert_verdict, first_place

VARIANTS: dict[str, dict[str, Any]] = {
    "copy": {"average__decay": 0.9},
    "slow copy": {"average__decay": 0.999, "optimizer__name": "adamw"},
    "zero": {"average__decay": 0.9, "average__start": "zero"},
    "debiased": {"average__decay": 0.99, "average__start": "zero", "average__debias": True},
    "fast": {"average__decay": 0.25},  # PyTorch's lerp turns round at a weight of one half
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_follows_the_oracle_at_every_update(variant: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), exact_trace(recipe)
    comparison = compare(trace, oracle, {})
    assert_verdict(comparison, "identical", "rounding")
    assert "average" in comparison.worst
    averages = [name for name in trace.arrays if name.startswith("average/")]
    assert len(averages) == 13 * len(prepared(recipe).parameters)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_stays_within_rounding(variant: str, backend: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), oracle_trace(recipe)
    assert_rounding(trace, oracle)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_average_is_the_sum_it_stands_for(variant: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **VARIANTS[variant])
    trace, average = twin_trace(backend, recipe), recipe.average
    for name in trace.parameters(0):
        # after u updates: decay^u of the start, and (1 - decay) decay^(u - i) of the parameters
        # after update i
        parameters = [trace.parameters(i)[name] for i in range(13)]
        first = parameters[0] if average.start == "copy" else np.zeros_like(parameters[0])
        terms = [average.decay ** (12 - i) * parameters[i] for i in range(1, 13)]
        expected = average.decay**12 * first + (1 - average.decay) * sum(terms)
        if average.debias:
            expected = expected / (1 - average.decay**12)
        np.testing.assert_allclose(
            trace.arrays[f"average/12/{name}"], expected, rtol=1e-11, atol=1e-14
        )


def test_a_debiased_average_begins_at_the_first_parameters(backend: str) -> None:
    recipe = small_recipe(**VARIANTS["debiased"])
    trace = twin_trace(backend, recipe)
    for name, array in trace.parameters(1).items():
        np.testing.assert_allclose(trace.arrays[f"average/1/{name}"], array, rtol=1e-5)


def test_keeping_an_average_changes_no_other_bit(backend: str) -> None:
    plain = twin_trace(backend, small_recipe())
    averaged = twin_trace(backend, small_recipe(**VARIANTS["copy"]))
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(array, averaged.arrays[name], err_msg=name)
    assert not any(name.startswith("average/") for name in plain.arrays)


def test_debias_with_a_copy_is_refused() -> None:
    with pytest.raises(InputError, match=r"average\.debias"):
        Recipe.from_dict({"average": {"decay": 0.9, "debias": True}})


# --- planted faults


def other(**values: Any) -> Callable[[Any, str], Any]:
    def put(module: Any, name: str) -> Any:
        original = of_pair(module, name)
        return lambda average, *rest: original(replace(average, **values), *rest)

    return put


def before_the_update(module: Any, name: str) -> Any:
    """Average the parameters as they were before the update, which PyTorch holds a call longer."""
    held: list[Any] = []

    def update(average: Any, running: Any, model: Any) -> Any:
        now = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        if held:
            model.load_state_dict(held.pop())
            running.update_parameters(model)
            model.load_state_dict(now)
        held.append(now)
        return running

    return update


def as_it_is_often_called(module: Any, name: str) -> Any:
    """Show AveragedModel the parameters after each update alone, so that it begins as a copy of
    those after the first.
    """

    def start_average(average: Any, model: Any) -> Any:
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average.decay))

    return start_average


FAULTS: dict[str, tuple[str, Callable[[Any, str], Any], int, tuple[str, ...]]] = {
    "from zero": ("start_average", other(start="zero"), -1, ("torch", "jax")),
    "decay 0.9 for 0.999": ("update_average", other(decay=0.9), 0, ("torch", "jax")),
    "one update late": ("update_average", before_the_update, 0, ("torch",)),
    "begins after the first update": ("start_average", as_it_is_often_called, 0, ("torch",)),
    "not debiased": ("export_average", other(debias=False), 0, ("torch", "jax")),
}


@pytest.mark.parametrize(
    ("name", "backend"), [(name, twin) for name in FAULTS for twin in FAULTS[name][3]]
)
def test_fault_is_caught_at_its_place(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attribute, put, update, _ = FAULTS[name]
    module: Any = TWINS[backend]
    values: dict[str, Any] = {"average__decay": 0.999}
    if name == "not debiased":
        values |= {"average__start": "zero", "average__debias": True}
    recipe = small_recipe(training__dtype="float64", **values)
    if attribute == "update_average" and put is not before_the_update:
        recipe = small_recipe(training__dtype="float64", average__decay=0.999)
        # PyTorch binds the decay when the average begins
        attribute, update = ("start_average", 0) if backend == "torch" else (attribute, update)
    patch_pair(monkeypatch, module, attribute, put(module, attribute))
    forget_compiled()
    trace = module.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    forget_compiled()
    stage = "average" if update >= 0 else "init"
    assert first_place(trace, oracle_trace(recipe), {}) == (stage, update)


def test_torch_leaves_the_trained_model_alone() -> None:
    recipe = small_recipe(**VARIANTS["copy"])
    data = prepared(recipe).cast(recipe.dtype)
    state = pt_impl.train.initial_state(recipe, data, torch.device("cpu"))
    assert state.average is not None
    trained = {id(parameter) for parameter in state.model.parameters()}
    assert not trained & {id(parameter) for parameter in state.average.parameters()}
