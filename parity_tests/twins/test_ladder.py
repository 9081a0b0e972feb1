"""The ladder: the first rung that fails names the culprit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_impl.loss
import jax_impl.model
import jax_impl.optimizer
import jax_impl.schedule
import jax_impl.train
import pt_impl.loss
import pt_impl.model
import pt_impl.optimizer
import pt_impl.schedule
import pt_impl.train
from lockstep.data_prep import Parameters
from lockstep.diagnose.compare import SEMANTICS, bounds_of, compare
from lockstep.oracle.arithmetic import Exact
from lockstep.oracle.loss import loss_and_slope
from lockstep.oracle.network import forward, loss_and_gradients
from lockstep.oracle.trajectory import canonical, start
from lockstep.recipe import Optimizer, Recipe
from lockstep.records.run_recorder import Watch
from lockstep.schedules.formulas import learning_rates
from parity_tests.shared.recipes import exact_trace, oracle_trace, prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS, twin_trace
from parity_tests.shared.verdicts import assert_agreement, assert_rounding, assert_verdict

CPU = {"torch": torch.device("cpu"), "jax": jax.devices("cpu")[0]}
F64 = small_recipe(training__dtype="float64")

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer__momentum": 0.0},
    "momentum": {},
    "nesterov": {"optimizer__nesterov": True},
    "momentum, decay": {"optimizer__weight_decay": 0.01},
    "adam": {"optimizer__name": "adam"},
    "adam, L2": {"optimizer__name": "adam", "optimizer__weight_decay": 0.01},
    "adamw": {"optimizer__name": "adamw", "optimizer__weight_decay": 0.01},
}
BATCHES: dict[str, dict[str, Any]] = {
    "partial": {},
    "drop_last": {"training__drop_last": True},
    "full": {"training__batch": 30},
    "one": {"training__batch": 90},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine by update": {
        "schedule__name": "cosine",
        "schedule__unit": "update",
        "schedule__ramp": "t/W",
    },
    "constant": {"schedule__warmup": 0},
    "C": {"schedule__ramp": "(t+1)/(W+1)"},
}
VARIANTS = {
    **{
        f"{optimizer}-{activation}": values | {"model__activation": activation}
        for optimizer, values in OPTIMIZERS.items()
        for activation in ("relu", "tanh")
    },
    **{
        f"{optimizer}-{batch}": OPTIMIZERS[optimizer] | values
        for optimizer in ("momentum", "adamw")
        for batch, values in BATCHES.items()
    },
    **SCHEDULES,
    "no hidden layer": {"model__hidden": ()},
    "eleven layers": {
        "model__hidden": (6,) * 10,
        "schedule__peak": 0.005,
    },  # linear10 sorts before linear2
}
LADDER = [name for name in VARIANTS if name == "momentum-tanh" or not name.endswith("-tanh")]
"""An activation changes nothing of an optimizer, so their combinations run with `make sweep`."""
IN_FLOAT32 = [
    name for name in LADDER if not name.endswith("-relu") or name in ("momentum-relu", "adamw-relu")
]
"""The rounding of every optimizer is bounded in `test_optimizers.py`."""


def relative(a: Any, b: Any) -> float:
    """Largest difference over the largest value."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(np.float64).tiny))


# --- data and initial parameters


def test_same_data_hash_in_every_trace(backend: str) -> None:
    assert twin_trace(backend, F64).header["data_hash"] == prepared(F64).hash
    assert oracle_trace(F64).header["data_hash"] == prepared(F64).hash


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_parameters_are_the_same_bits_in_both_layouts(dtype: str) -> None:
    recipe = small_recipe(training__dtype=dtype)
    data = prepared(recipe).cast(dtype)
    torch_model = pt_impl.model.build_model(recipe, data, CPU["torch"])
    with jax.enable_x64(dtype == "float64"):
        jax_model = jax_impl.model.build_model(recipe, data, CPU["jax"])
        # the frameworks' own layouts: (out, in) in PyTorch, (in, out) in Flax
        assert torch_model.linear1.weight.shape == (6, 6)
        assert torch_model.linear2.weight.shape == (5, 6)
        assert jax_model.linear2.kernel.shape == (6, 5)
        np.testing.assert_array_equal(
            torch_model.linear2.weight.detach().numpy().T, np.asarray(jax_model.linear2.kernel)
        )
        exported = pt_impl.model.export_parameters(torch_model)
        assert_parameters(exported, data.parameters, dtype)
        exported = jax_impl.model.export_parameters(jax_model)
        assert_parameters(exported, data.parameters, dtype)


def assert_parameters(exported: Parameters, expected: Parameters, dtype: str) -> None:
    assert exported.keys() == expected.keys()
    for name, array in expected.items():
        assert exported[name].dtype == dtype
        np.testing.assert_array_equal(exported[name], array)


# --- learning rate, as reported and as applied


def applied_rates(backend: str, recipe: Recipe, updates_per_epoch: int) -> Any:
    """The learning rates as applied: what an update of SGD with a gradient of 1 takes from a
    parameter at 0.
    """
    table_T = learning_rates(recipe, updates_per_epoch).astype(recipe.dtype)
    plain = Optimizer(name="sgd", momentum=0.0)
    if backend == "torch":
        parameter = torch.nn.Parameter(torch.zeros((), dtype=getattr(torch, recipe.training.dtype)))
        schedules = {0: pt_impl.schedule.make_schedule(table_T)}
        optimizer, scheduler = pt_impl.optimizer.make_optimizer(
            plain, schedules, {"linear1.weight": parameter}
        )
        rates = []
        for _ in table_T:
            with torch.no_grad():
                parameter.zero_()
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            scheduler.step()
            rates.append(-parameter.detach().numpy().copy())
        return np.array(rates)
    with jax.enable_x64(recipe.training.dtype == "float64"):
        schedules = {0: jax_impl.schedule.make_schedule(jnp.asarray(table_T))}
        zero = jnp.zeros((), recipe.dtype)
        transformation, state = jax_impl.optimizer.make_optimizer(plain, schedules, zero)

        def step(state: Any, _: None) -> Any:
            change, state = transformation.update(jnp.ones_like(zero), state, zero)
            return state, -optax.apply_updates(zero, change)

        scan = jax.jit(lambda state: jax.lax.scan(step, state, None, length=len(table_T)))
        return np.asarray(scan(state)[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ramp", ["(t+1)/W", "t/W", "(t+1)/(W+1)"])
@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_applied_rate_is_the_closed_form_bit_for_bit(
    backend: str, name: str, ramp: str, dtype: str
) -> None:
    recipe = small_recipe(
        schedule__name=name,
        schedule__ramp=ramp,
        schedule__unit="update",
        schedule__warmup=137,
        schedule__peak=0.01,
        training__epochs=10,
        training__dtype=dtype,
    )
    expected = learning_rates(recipe, 100).astype(dtype)
    np.testing.assert_array_equal(applied_rates(backend, recipe, 100), expected)


def test_reported_rates_are_the_same_bits_everywhere(backend: str) -> None:
    for dtype in ("float32", "float64"):
        recipe = small_recipe(
            training__dtype=dtype, schedule__name="cosine", schedule__unit="update"
        )
        rates_T = twin_trace(backend, recipe).series("lr")
        assert rates_T.dtype == dtype
        np.testing.assert_array_equal(rates_T, learning_rates(recipe, 3).astype(dtype))


# --- forward, loss, gradients, one update


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_forward_loss_and_every_gradient(activation: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", model__activation=activation)
    data, count = prepared(recipe), 26
    x_BD, y_B = data.train_x_ND[:32], data.train_y_N[:32]
    oracle = start(data)
    logits = forward(recipe.model, oracle, x_BD, Exact()).outputs["linear3"]
    loss, gradients, _ = loss_and_gradients(recipe, oracle, x_BD[:count], y_B[:count], Exact())
    twin_logits: Any
    twin_gradients: Parameters
    if backend == "torch":
        model = pt_impl.model.build_model(recipe, data, CPU["torch"])
        outputs = model(torch.from_numpy(x_BD))
        mean = pt_impl.loss.mean_loss(recipe.loss, outputs, torch.from_numpy(y_B), count)
        mean.backward()
        twin_logits, twin_loss = outputs.detach().numpy(), mean.item()
        twin_gradients = {
            name: parameter.grad.numpy().T
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
    else:
        with jax.enable_x64(True):
            graph, state = nnx.split(jax_impl.model.build_model(recipe, data, CPU["jax"]))

            def loss_of(state: Any) -> Any:
                logits_BK = nnx.merge(graph, state)(jnp.asarray(x_BD))
                y = jnp.asarray(y_B)
                return jax_impl.loss.mean_loss(recipe.loss, logits_BK, y, count), logits_BK

            value_and_gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
            (twin_loss, twin_logits), slopes = value_and_gradients(state)
            twin_gradients = jax_impl.model.export_parameters(slopes)
    assert relative(twin_logits, logits) < SEMANTICS
    assert relative(twin_loss, loss) < SEMANTICS
    assert twin_gradients.keys() == data.parameters.keys()
    for name, gradient in canonical(gradients).items():
        assert relative(twin_gradients[name], gradient) < SEMANTICS, name


def test_oracle_gradients_against_finite_differences() -> None:
    recipe = small_recipe(training__dtype="float64", model__activation="tanh")
    data = prepared(recipe)
    x_BD, y_B, parameters = data.train_x_ND[:8], data.train_y_N[:8], start(data)
    _, gradients, _ = loss_and_gradients(recipe, parameters, x_BD, y_B, Exact())

    def loss_at(name: str, index: tuple[int, ...], step: float) -> float:
        moved = {key: array.copy() for key, array in parameters.items()}
        moved[name][index] += step
        *_, logits_BK = forward(recipe.model, moved, x_BD, Exact()).outputs.values()
        return float(loss_and_slope(recipe.loss, logits_BK, y_B, Exact())[0])

    # central differences err by h^2 ~ 1e-10 of the third derivative and 1e-16 / h ~ 1e-11 of
    # rounding
    h = 1e-5
    for name, gradient in gradients.items():
        for index in np.ndindex(gradient.shape):
            slope = (loss_at(name, index, h) - loss_at(name, index, -h)) / (2 * h)
            assert abs(slope - gradient[index]) < 1e-9, (name, index)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_update(optimizer: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **OPTIMIZERS[optimizer])
    expected = exact_trace(recipe).parameters(1)
    parameters = twin_trace(backend, recipe).parameters(1)
    for name in expected:
        assert relative(parameters[name], expected[name]) < SEMANTICS, name


# --- training


@pytest.mark.parametrize("variant", sweep_but(LADDER, VARIANTS))
def test_float64_training_follows_the_oracle_at_every_update(variant: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), exact_trace(recipe)
    updates = list(range(trace.header["updates"] + 1))
    assert trace.recorded_updates == updates == oracle.recorded_updates
    assert_agreement(trace, oracle, {})  # without bounds: 1e-12 alone
    for name, values in oracle.prediction.items():
        assert relative(trace.prediction[name], values) < SEMANTICS, name


@pytest.mark.parametrize("variant", sweep_but(IN_FLOAT32, VARIANTS))
def test_float32_training_stays_within_rounding(variant: str, backend: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), oracle_trace(recipe)
    assert trace.series("loss").dtype == np.float32
    assert_rounding(trace, oracle)


def test_the_torch_and_jax_float32_runs_agree() -> None:
    for variant in ("momentum-relu", "adamw-tanh", "adamw-partial"):
        recipe = small_recipe(**VARIANTS[variant])
        bounds = bounds_of(oracle_trace(recipe))
        assert bounds
        assert_agreement(twin_trace("torch", recipe), twin_trace("jax", recipe), bounds)


def test_each_backend_gives_the_same_bits_twice(backend: str) -> None:
    recipe = small_recipe()
    first = twin_trace(backend, recipe)
    again = TWINS[backend].train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])


@pytest.mark.parametrize("every", [0, 2, 5])
def test_recording_more_changes_no_bit(every: int, backend: str) -> None:
    recipe = small_recipe()
    trace = TWINS[backend].train(recipe, prepared(recipe), watch=Watch(parameters_every=every))
    full = twin_trace(backend, recipe)
    for name, array in trace.arrays.items():
        np.testing.assert_array_equal(array, full.arrays[name], err_msg=name)


# --- convergence


@pytest.mark.parametrize("name", ["seed", "breast_cancer", "digits"])
def test_ready_made_recipes_converge_alike(name: str) -> None:
    from lockstep.recipe import load_recipe

    recipe = load_recipe(name)
    data = prepared(recipe)
    traces = [twin.train(recipe, data) for twin in TWINS.values()]
    for trace in traces:
        assert trace.metric("train_loss")[-1] <= 0.30
        assert trace.metric("train_accuracy")[-1] >= 0.88
        assert trace.metric("train_loss")[-1] < trace.metric("train_loss")[0]
        # held-out rows were never trained on: a chance classifier would score 1/K
        assert trace.metric("held_out_accuracy")[-1] > 0.88
    right = [trace.metric("held_out_accuracy")[-1] * len(data.held_out_y_N) for trace in traces]
    # at most one held-out row lies within rounding of the decision
    assert abs(right[0] - right[1]) <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_that_blows_up_is_recorded_as_it_is(dtype: str, backend: str) -> None:
    peak = {"float32": 1e30, "float64": 1e250}[dtype]
    recipe = small_recipe(
        schedule__peak=peak, training__epochs=2, schedule__warmup=0, training__dtype=dtype
    )
    trace, oracle = twin_trace(backend, recipe), oracle_trace(recipe)
    assert not np.isfinite(trace.series("loss")).all()
    assert np.isfinite(trace.series("loss")[0])
    assert trace.header["updates"] == len(oracle.series("loss"))
    bounds = bounds_of(oracle)
    assert bounds
    comparison = compare(trace, oracle, bounds)
    assert_verdict(comparison, "inconclusive")


@pytest.mark.gpu
def test_gpu_training_stays_within_rounding(backend: str) -> None:
    has_gpu = torch.cuda.is_available() if backend == "torch" else jax.default_backend() == "gpu"
    if not has_gpu:
        pytest.skip(f"{backend} sees no GPU on this machine")
    for dtype in ("float64", "float32"):
        recipe = small_recipe(training__dtype=dtype, optimizer__name="adamw")
        trace = TWINS[backend].train(recipe, prepared(recipe), device="gpu")
        assert_rounding(trace, oracle_trace(recipe))
