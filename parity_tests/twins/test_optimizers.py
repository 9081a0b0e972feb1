"""SGD, Adam and their kin: both twins against the oracle, against the libraries' own classes, and
faults planted.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_impl.optimizer
import jax_impl.optimizers.parts
import jax_impl.schedule
import jax_impl.train
import pt_impl.optimizer
import pt_impl.schedule
import pt_impl.train
from lockstep.diagnose.compare import SEMANTICS
from lockstep.errors import InputError
from lockstep.oracle.arithmetic import Exact, Perturbed
from lockstep.recipe import Optimizer, Recipe
from lockstep.records.run_recorder import Watch
from lockstep.schedules.rate_tables import decay_warnings, rate_tables
from parity_tests.shared.optimizers import CASES, KIN, at_defaults, forms
from parity_tests.shared.recipes import exact_trace, oracle_trace, prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS, forget_compiled, of_pair, patch_pair, twin_trace
from parity_tests.shared.verdicts import assert_agreement, assert_rounding, first_place
from parity_tests.twins.test_other_optimizers import (
    Tensors,
    apart,
    drive_optax,
    drive_oracle,
    drive_torch,
    drive_twin,
    gradients_of,
    start_of,
    whole,
)

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
    form: {"name": name} | knobs for name in KIN for form, knobs in forms(name).items()
}
FIRST_FORMS = [next(iter(forms(name))) for name in KIN]


def recipe_of(optimizer: dict[str, Any], dtype: str = "float64", **values: Any) -> Recipe:
    knobs = {f"optimizer__{knob}": value for knob, value in optimizer.items()}
    return small_recipe(**TABLE | knobs | values, training__dtype=dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_200_updates_in_float64_follow_the_oracle(variant: str, backend: str) -> None:
    recipe = recipe_of(VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), exact_trace(recipe)
    assert trace.recorded_updates == list(range(201)) == oracle.recorded_updates
    assert_agreement(trace, oracle, {})  # without bounds: 1e-12 alone


@pytest.mark.parametrize("variant", sweep_but(FIRST_FORMS, VARIANTS))
def test_200_updates_in_float32_stay_within_rounding(variant: str, backend: str) -> None:
    recipe = recipe_of(VARIANTS[variant], "float32")
    assert_rounding(twin_trace(backend, recipe), oracle_trace(recipe))


# --- single updates, over the same gradients


@settings(max_examples=15)
@given(
    variant=st.sampled_from([form for form in VARIANTS if "multipliers" not in VARIANTS[form]]),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_twins_take_the_oracles_steps_over_any_gradients(
    variant: str, inputs: int, outputs: int, seed: int
) -> None:
    optimizer = Optimizer(**VARIANTS[variant])
    updates = 8  # RAdam is rectified from the sixth on
    start = start_of(inputs, outputs, seed)
    gradients = gradients_of(start, updates, seed)
    rates = list(np.random.default_rng([seed, 2]).uniform(0, 0.1, updates))
    expected = drive_oracle(optimizer, rates, start, gradients)
    for twin in TWINS:
        parameters = drive_twin(twin, optimizer, rates, start, gradients)
        assert apart(parameters, expected) < SEMANTICS, twin


def test_the_sign_of_what_rounding_could_turn_is_drawn_and_no_other() -> None:
    arithmetic = Perturbed(64, 2.0**-24, 0)
    # member 0, then 64 that err by 1e-7: safely positive, safely negative, undecided, and 0 in all
    member = np.arange(65)[:, None, None]
    errors = np.where(member % 2 == 1, 1e-7, -1e-7) * (member > 0)
    value = np.array([[1.0, -1e-5, 3e-7, 0.0]]) + errors * np.array([[1.0, 1.0, 1.0, 0.0]])
    signs = arithmetic.sign(value)
    np.testing.assert_array_equal(signs[0], [[1.0, -1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(signs[:, 0, [0, 1, 3]], np.tile([1.0, -1.0, 0.0], (65, 1)))
    assert set(signs[1:, 0, 2]) == {-1.0, 1.0}
    np.testing.assert_array_equal(Exact().sign(value[0]), [[1.0, -1.0, 1.0, 0.0]])


@pytest.mark.parametrize("name", ["radam", "nadam"])
def test_past_the_tables_of_early_updates_jax_goes_on_alike(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax_impl.optimizers.parts, "EARLY", 8)
    optimizer, rates = Optimizer(name=name, beta2=0.9), [0.01] * 20
    start = start_of(3, 2, 0)
    gradients = gradients_of(start, 20, 0)
    expected = drive_oracle(optimizer, rates, start, gradients)
    parameters = drive_twin("jax", optimizer, rates, start, gradients)
    assert apart(parameters, expected) < SEMANTICS


# --- groups


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_rate_applied_in_each_group_is_its_table_bit_for_bit(dtype: str, backend: str) -> None:
    recipe = recipe_of({"name": "sgd", "momentum": 0.0, "multipliers": (0.3, 1.7)}, dtype)
    tables = rate_tables(recipe, 50)
    dtypes = {layer: table_T.dtype for layer, table_T in tables.items()}
    assert dtypes == dict.fromkeys((0, 1, 2), np.dtype(dtype))
    names = ("linear1.weight", "norm1.bias", "linear2.bias")
    rates_of: dict[str, list[Any]] = {name: [] for name in names}
    if backend == "torch":
        parameters = {
            name: torch.nn.Parameter(torch.zeros((), dtype=getattr(torch, dtype))) for name in names
        }
        schedules = {
            layer: pt_impl.schedule.make_schedule(table_T) for layer, table_T in tables.items()
        }
        optimizer, scheduler = pt_impl.optimizer.make_optimizer(
            recipe.optimizer, schedules, parameters
        )
        for update in range(200):
            assert optimizer.param_groups[0]["lr"] == tables[0][update]
            for parameter in parameters.values():
                parameter.data.zero_()
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            scheduler.step()
            for name, parameter in parameters.items():
                rates_of[name].append(-parameter.item())
    else:
        with jax.enable_x64(dtype == "float64"):
            zeros = {"linear1": {"kernel": 0.0}, "norm1": {"bias": 0.0}, "linear2": {"bias": 0.0}}
            zeros = jax.tree.map(lambda zero: jnp.asarray(zero, dtype), zeros)
            schedules = {
                layer: jax_impl.schedule.make_schedule(jnp.asarray(table_T))
                for layer, table_T in tables.items()
            }
            transformation, state = jax_impl.optimizer.make_optimizer(
                recipe.optimizer, schedules, zeros
            )

            def step(state: Any, update: Any) -> Any:
                rate = schedules[0](update)
                changes, state = transformation.update(
                    jax.tree.map(jnp.ones_like, zeros), state, zeros
                )
                return state, (rate, changes)

            scan = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(200)))
            _, (rates, changes) = scan(state)
            np.testing.assert_array_equal(rates, tables[0])
            places = (("linear1", "kernel"), ("norm1", "bias"), ("linear2", "bias"))
            for name, (layer, kind) in zip(names, places):
                rates_of[name] = list(-np.asarray(changes[layer][kind]))
    for name, number in zip(names, (1, 1, 2)):
        np.testing.assert_array_equal(np.array(rates_of[name], dtype), tables[number])


def test_multipliers_must_be_one_a_layer() -> None:
    with pytest.raises(InputError, match=r"^optimizer.multipliers: 3 for 2 linear layers"):
        recipe_of({"name": "sgd", "multipliers": (1.0, 1.0, 1.0)})


# --- weight decay in float32


def decay_kept(backend: str, form: str, rate: float) -> float:
    """The share of its weight decay that AdamW does in float32, over 2000 updates with random
    gradients.
    """
    generator = np.random.default_rng(0)
    starts = generator.uniform(0.5, 1.0, size=(200, 5)).astype(np.float32)
    noise = generator.normal(size=(2000, 200, 5)).astype(np.float32)
    ends = {}
    for decay in (0.0, 0.01):
        optimizer = Optimizer(name="adamw", decay_form=form, weight_decay=decay)
        if backend == "torch":
            parameter = torch.nn.Parameter(torch.from_numpy(starts.copy()))
            torch_optimizer, _ = pt_impl.optimizer.make_optimizer(
                optimizer, {0: lambda _: rate}, {"linear1.weight": parameter}
            )
            for gradient in noise:
                parameter.grad = torch.from_numpy(gradient)
                torch_optimizer.step()
            ends[decay] = parameter.detach().numpy().astype(np.float64)
        else:
            tree = {"linear1": {"kernel": jnp.asarray(starts)}}
            transformation, state = jax_impl.optimizer.make_optimizer(
                optimizer, {0: lambda _: jnp.float32(rate)}, tree
            )

            def step(carry: Any, gradient: Any, transformation: Any = transformation) -> Any:
                tree, state = carry
                changes, state = transformation.update(
                    {"linear1": {"kernel": gradient}}, state, tree
                )
                return (optax.apply_updates(tree, changes), state), None

            run = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, noise)[0])
            ends[decay] = np.asarray(run((tree, state))[0]["linear1"]["kernel"], np.float64)
    return float((ends[0.0] - ends[0.01]).mean() / (starts.mean() * rate * 0.01 * 2000))


def test_float32_loses_the_decay_as_a_factor_and_keeps_it_as_a_step(backend: str) -> None:
    assert decay_kept(backend, "factor", 1e-6) == 0
    # in the mean: a decay below half a last bit of the parameter turns the rounding of some steps
    assert 0.97 < decay_kept(backend, "step", 1e-6) < 1.03
    assert 0.99 < decay_kept(backend, "factor", 1e-3) < 1.01


def test_lost_decay_is_told_with_its_updates_and_share() -> None:
    def warnings_of(optimizer: dict[str, Any], peak: float, dtype: str = "float32") -> list[str]:
        recipe = recipe_of(optimizer, dtype, schedule__peak=peak)
        assert prepared(recipe).warnings == tuple(decay_warnings(recipe, 50))
        return list(decay_warnings(recipe, 50))

    for name in ("adamw", "nadamw"):
        (line,) = warnings_of({"name": name}, 1e-6)
        lost = "at 200 of 200 updates (0 to 199): 100 % of the run's decay is lost"
        assert f"rounds to 1 {lost}" in line
        assert warnings_of({"name": name, "decay_form": "step"}, 1e-6) == []
        assert warnings_of({"name": name, "weight_decay": 0.0}, 1e-6) == []
        assert warnings_of({"name": name}, 1e-6, "float64") == []
    assert warnings_of({"name": "adamw"}, 1e-2) == []
    assert warnings_of({"name": "adam", "weight_decay": 0.01}, 1e-6) == []
    # lr weight_decay is 2e-7: 3.4 steps of 2^-24, rounded to 3
    (line,) = warnings_of({"name": "adamw"}, 2e-5)
    assert "rounds to 1 at 2 of 200 updates (0 to 1): 9.89 % of the run's decay is lost" in line
    (line,) = warnings_of({"name": "adamw", "multipliers": (1.0, 1e-4)}, 1e-2)
    assert "of 200 updates" in line


# --- presets


START = start_of(6, 4, 7)
GRADIENTS = gradients_of(START, 200, 7)
RATE = 0.01

PRESETS = [preset for name in KIN for preset in CASES[name].libraries]


def preset_of(preset: str, **knobs: Any) -> Optimizer:
    return Recipe.from_dict({"optimizer": {"preset": preset, **knobs}}).optimizer


def expected(optimizer: Optimizer) -> list[Tensors]:
    return list(drive_oracle(optimizer, [RATE] * len(GRADIENTS), START, GRADIENTS))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_library_at_its_defaults(preset: str) -> None:
    drive = drive_torch if preset.startswith("torch.") else drive_optax
    parameters = drive(at_defaults(preset, RATE), START, GRADIENTS)
    residual = apart(parameters, expected(preset_of(preset)))
    if preset.startswith("torch.nadam"):  # PyTorch keeps the product of the momenta in float32
        assert 1e-12 < residual < 1e-8
    else:
        assert residual < SEMANTICS


@pytest.mark.parametrize(
    ("preset", "knobs", "library"),
    [
        (
            "torch.sgd",
            {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
            whole(torch.optim.SGD, momentum=0.8, dampening=0.3, weight_decay=0.1),
        ),
        (
            "torch.sgd",
            {"momentum": 0.8, "nesterov": True},
            whole(torch.optim.SGD, momentum=0.8, nesterov=True),
        ),
        (
            "torch.adamw",
            {"weight_decay": 0.2, "eps": 1e-3},
            whole(torch.optim.AdamW, weight_decay=0.2, eps=1e-3),
        ),
        (
            "torch.radam",
            {"eps": 1e-2, "weight_decay": 0.1},
            whole(torch.optim.RAdam, eps=1e-2, weight_decay=0.1),
        ),
        ("optax.radam", {"eps": 1e-2}, partial(optax.radam, eps=1e-2)),
        (
            "optax.sgd",
            {"momentum": 0.8, "nesterov": True},
            partial(optax.sgd, momentum=0.8, nesterov=True),
        ),
        (
            "optax.adamw",
            {"weight_decay": 0.2, "beta2": 0.9},
            partial(optax.adamw, weight_decay=0.2, b2=0.9),
        ),
        ("optax.lamb", {"weight_decay": 0.2}, partial(optax.lamb, weight_decay=0.2)),
        (
            "optax.lion",
            {"weight_decay": 0.2, "beta1": 0.5},
            partial(optax.lion, weight_decay=0.2, b1=0.5),
        ),
    ],
)
def test_a_preset_takes_the_librarys_own_arguments(
    preset: str, knobs: dict[str, Any], library: Any
) -> None:
    if preset.startswith("torch"):
        parameters = drive_torch(library, START, GRADIENTS)
    else:
        parameters = drive_optax(lambda _: library(RATE), START, GRADIENTS)
    assert apart(parameters, expected(preset_of(preset, **knobs))) < SEMANTICS


# --- planted faults


# variant, the knob at another value, and the first update at which that must show
FAULTS: list[tuple[str, dict[str, Any], int]] = [
    ("sgd, momentum", {"momentum": 0.89}, 1),
    ("sgd, dampening", {"dampening": 0.0}, 1),
    ("sgd, nesterov L2", {"nesterov": False}, 0),
    ("adam", {"beta1": 0.999, "beta2": 0.9}, 1),
    ("adam", {"eps_in_root": True}, 0),
    ("adam, L2", {"name": "adamw", "decay_form": "step"}, 0),
    ("adam, amsgrad", {"amsgrad": "corrected"}, 1),
    ("adam, amsgrad corrected", {"amsgrad": "off"}, 1),
    ("adamw", {"weight_decay": 1e-4}, 0),
    ("adamw", {"decay_on": "weights"}, 0),
    ("adamw, groups", {"multipliers": ()}, 0),
    ("nadam", {"momentum_ramp": False}, 0),
    ("nadam", {"momentum_decay": 0.005}, 0),
    ("nadamw", {"name": "nadam", "decay_form": None}, 0),
    ("radam, eps", {"eps_corrected": True}, 5),
    ("radam", {"name": "adam", "eps_corrected": None, "eps_in_root": False, "amsgrad": "off"}, 0),
    ("adamax", {"beta2": 0.99}, 1),
    ("adamax", {"eps": 1e-7}, 0),
    ("lamb", {"name": "adamw", "eps_in_root": False, "amsgrad": "off", "decay_form": "step"}, 0),
    ("lamb", {"decay_on": "weights"}, 0),
    ("lion", {"beta1": 0.99, "beta2": 0.9}, 1),
    ("lion", {"weight_decay": 0.0}, 0),
]
# one fault of each in JAX, where every fault is compiled anew
IN_JAX = [next(fault for fault in FAULTS if VARIANTS[fault[0]]["name"] == name) for name in KIN]


@pytest.mark.parametrize(
    ("twin", "variant", "fault", "update"),
    [("torch", *fault) for fault in FAULTS] + [("jax", *fault) for fault in IN_JAX],
)
def test_fault_is_caught(
    twin: str, variant: str, fault: dict[str, Any], update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(VARIANTS[variant])
    knobs = {f"optimizer.{knob}": value for knob, value in fault.items() if value is not None}
    faulty = recipe.with_values(knobs).optimizer
    module = TWINS[twin]
    original = of_pair(module, "make_optimizer")
    patch_pair(monkeypatch, module, "make_optimizer", lambda _, *rest: original(faulty, *rest))
    forget_compiled()
    trace = module.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    forget_compiled()
    # not decaying the biases is too little to be seen in the norm of LAMB's step
    stage = "parameters" if (variant, fault) == ("lamb", {"decay_on": "weights"}) else "update"
    assert first_place(trace, exact_trace(recipe), {}) == (stage, update)
