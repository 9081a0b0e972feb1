"""Activations, normalisation, dropout, biases and initial weights: both twins against the
oracle.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.nn import functional

import jax_impl.model
import jax_impl.train
import pt_impl.model
import pt_impl.train
from lockstep.data_prep import prepare
from lockstep.data_prep.initialise import draw_weight
from lockstep.diagnose.compare import SEMANTICS, bounds_of, compare
from lockstep.errors import InputError
from lockstep.oracle.activations import activate, slope_of
from lockstep.oracle.arithmetic import SAFETY, Exact, unit_roundoff
from lockstep.oracle.loss import loss_and_slope
from lockstep.oracle.network import forward, loss_and_gradients
from lockstep.oracle.trajectory import start
from lockstep.recipe import Recipe
from lockstep.recipe.presets import MODEL_PRESETS
from lockstep.records.run_recorder import Watch
from parity_tests.shared.recipes import exact_trace, oracle_trace, prepared, small_recipe
from parity_tests.shared.sweep import sweep_but
from parity_tests.shared.twins import TWINS, of_pair, patch_pair, twin_trace
from parity_tests.shared.verdicts import assert_agreement, assert_rounding, first_place
from parity_tests.twins.test_ladder import CPU

ACTIVATIONS = tuple(pt_impl.model.ACTIVATIONS)
LONG = {"training__epochs": 67}  # of 3 updates: 201
VARIANTS: dict[str, dict[str, Any]] = {
    "layer norm": {"model__norm": "layer", **LONG},
    "layer norm, eps of Flax, no bias": {
        "model__norm": "layer",
        "model__norm_eps": 1e-6,
        "model__bias": False,
    },
    "layer norm of one unit": {
        "model__norm": "layer",
        "model__hidden": (1,),
        "model__activation": "leaky_relu",
    },
    "batch norm": {"model__norm": "batch", **LONG},
    "batch norm of Flax": {
        "model__norm": "batch",
        "model__norm_variance": "biased",
        "model__norm_momentum": 0.01,
        "model__norm_eps": 1e-3,
        **LONG,
    },
    "batch norm, accumulated, averaged": {
        "model__norm": "batch",
        "gradient__accumulate": 2,
        "average__decay": 0.9,
        "average__start": "zero",
        "average__debias": True,
    },
    "batch norm, adamw, no bias": {
        "model__norm": "batch",
        "model__bias": False,
        "optimizer__name": "adamw",
        "optimizer__decay_on": "weights",
        "optimizer__multipliers": (0.5, 1.0, 2.0),
        "schedule__peak": 0.01,
    },
    "dropout": {"model__dropout": 0.3},
    "everything": {
        "model__norm": "batch",
        "model__dropout": 0.2,
        "model__activation": "gelu_tanh",
        "model__init": "flax",
        "model__bias": False,
    },
    "mish, orthogonal": {"model__activation": "mish", "model__init": "orthogonal"},
    "zeros": {"model__init": "zeros", "model__norm": "layer"},
}
IN_FLOAT32 = ("layer norm", "batch norm of Flax", "batch norm, accumulated, averaged", "everything")


class Sized(Exact):
    """Exact arithmetic that remembers how large a rounding error each value may have, in unit
    roundoffs.
    """

    size: Any = 0.0

    def near(self, value: Any, size: Any) -> Any:
        self.size = np.broadcast_to(size, value.shape)
        return value

    def round(self, value: Any) -> Any:
        return self.near(value, np.abs(value))


# --- activations


def evaluated(backend: str, name: str, z: Any) -> tuple[Any, Any]:
    """A twin's value and slope at every z, as float64."""
    value: Any
    slope: Any
    if backend == "torch":
        z_torch = torch.tensor(z, requires_grad=True)
        outputs = pt_impl.model.ACTIVATIONS[name](z_torch)
        outputs.sum().backward()
        assert z_torch.grad is not None
        value, slope = outputs.detach().numpy(), z_torch.grad.numpy()
    else:
        with jax.enable_x64(z.dtype == np.float64):
            function = jax_impl.model.ACTIVATIONS[name]
            slope_at = jax.grad(lambda z: function(z).sum())
            value, slope = jax.jit(lambda z: (function(z), slope_at(z)))(z)
    return np.asarray(value, dtype=np.float64), np.asarray(slope, dtype=np.float64)


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_slope_in_float64(name: str, backend: str) -> None:
    edges = [-1e5, -750, -100, -1e-9, -0.0, 0.0, 1e-9, 100, 750, 1e5]
    z = np.concatenate([np.linspace(-50, 50, 20_001), edges])
    value, slope = evaluated(backend, name, z)
    error = np.abs(value - activate(name, z, Exact()))
    assert (error <= SEMANTICS * np.maximum(1, np.abs(value))).all()
    assert np.abs(slope - slope_of(name, z, Exact())).max() <= SEMANTICS


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_slope_in_float32_are_within_what_the_bounds_allow(
    name: str, backend: str
) -> None:
    z = np.linspace(-30, 30, 20_001).astype(np.float32)
    for values, expected_of in zip(evaluated(backend, name, z), (activate, slope_of)):
        sized = Sized()
        expected = expected_of(name, z.astype(np.float64), sized)
        # 0.01 is rounded too; below the range of float32 both flush to 0
        size = np.maximum(sized.size, np.abs(expected))
        allowed = SAFETY * unit_roundoff(np.float32) * size + 1e-37
        assert (np.abs(values - expected) <= allowed).all()


@given(name=st.sampled_from(ACTIVATIONS), z=st.floats(-30, 30))
def test_slope_is_the_derivative(name: str, z: float) -> None:
    h = 1e-5
    if name in ("relu", "leaky_relu") and abs(z) <= h:
        return
    up = activate(name, np.array([z + h]), Exact())[0]
    down = activate(name, np.array([z - h]), Exact())[0]
    # the difference errs by h^2 of the third derivative, by the rounding of a value as large as z
    # over h, and where the second derivative jumps at 0 by half of it times h: elu's is 1,
    # softsign's 2 on either side
    allowed = h if name in ("elu", "softsign") else 1e-8
    assert abs((up - down) / (2 * h) - slope_of(name, np.array([z]), Exact())[0]) < allowed


@pytest.mark.parametrize(
    ("name", "twin", "put"),
    [
        ("softplus", pt_impl, functional.softplus),  # adds nothing to z from 20 on
        ("gelu", jax_impl, jax.nn.gelu),  # the approximation
        ("gelu", pt_impl, lambda z: functional.gelu(z, approximate="tanh")),
        ("leaky_relu", jax_impl, jax.nn.leaky_relu),  # slope 1 at 0
        ("relu", jax_impl, lambda z: jnp.maximum(z, 0.0)),  # slope 0.5 at 0
    ],
)
def test_a_librarys_other_default_is_caught(
    name: str, twin: Any, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(twin.model.ACTIVATIONS, name, put)
    with pytest.raises(AssertionError):
        test_activation_and_slope_in_float64(name, "torch" if twin is pt_impl else "jax")


# --- gradients by hand


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_oracle_gradients_against_finite_differences(norm: str, dropout: float) -> None:
    recipe = small_recipe(
        model__norm=norm, model__dropout=dropout, model__activation="silu", model__init="flax"
    )
    data = prepared(recipe)
    x_BD, y_B, parameters = data.train_x_ND[:8], data.train_y_N[:8], start(data)
    masks = [mask_TBH[0, :8] for mask_TBH in data.masks(0)]
    assert len(masks) == (2 if dropout else 0)
    for name, array in parameters.items():  # off their initial 0 and 1
        wave = np.cos(np.arange(array.size)).reshape(array.shape)
        parameters[name] = array + 0.1 * wave
    _, gradients, _ = loss_and_gradients(recipe, parameters, x_BD, y_B, Exact(), masks=masks)
    assert gradients.keys() == parameters.keys()

    def loss_at(name: str, index: tuple[int, ...], step: float) -> float:
        moved = {key: array.copy() for key, array in parameters.items()}
        moved[name][index] += step
        *_, logits_BK = forward(recipe.model, moved, x_BD, Exact(), masks=masks).outputs.values()
        return float(loss_and_slope(recipe.loss, logits_BK, y_B, Exact())[0])

    h = 1e-5
    for name, gradient in gradients.items():
        for index in np.ndindex(gradient.shape):
            slope = (loss_at(name, index, h) - loss_at(name, index, -h)) / (2 * h)
            assert abs(slope - gradient[index]) < 1e-8, (name, index)


# --- training


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_training_follows_the_oracle_at_every_update(variant: str, backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", **VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), exact_trace(recipe)
    arrays = {name for name in oracle.arrays if not name.startswith("bounds/")}
    assert arrays == set(trace.arrays)
    assert trace.recorded_updates == list(range(trace.header["updates"] + 1))
    assert_agreement(trace, oracle, {})  # without bounds: 1e-12 alone
    assert list(trace.prediction) == list(oracle.prediction)
    for name, values in oracle.prediction.items():
        error = np.abs(trace.prediction[name] - values).max()
        assert error <= SEMANTICS * np.abs(values).max(), name


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("variant", sweep_but(IN_FLOAT32[:2], IN_FLOAT32))
def test_float32_training_stays_within_rounding(variant: str, backend: str) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    trace, oracle = twin_trace(backend, recipe), oracle_trace(recipe)
    updates = [array for name, array in trace.arrays.items() if not name.startswith("epochs/")]
    assert {array.dtype for array in updates} == {np.dtype(np.float32)}
    assert_rounding(trace, oracle)


def test_layers_stand_in_order() -> None:
    recipe = small_recipe(training__dtype="float64", **VARIANTS["everything"])
    hidden = ["linear1", "norm1", "gelu_tanh1", "linear2", "norm2", "gelu_tanh2"]
    assert list(oracle_trace(recipe).prediction) == ["input", *hidden, "linear3", "softmax"]
    data = prepared(recipe)
    x_BD = data.train_x_ND[:4]
    masks = [mask_TBH[0, :4] for mask_TBH in data.masks(0)]
    outputs = forward(recipe.model, start(data), x_BD, Exact(), masks=masks).outputs
    assert list(outputs)[1:5] == ["linear1", "norm1", "gelu_tanh1", "dropout1"]


# --- normalisation


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("variance", ["unbiased", "biased"])
def test_running_statistics_are_those_of_the_rows_that_count(variance: str, backend: str) -> None:
    """The statistics follow their definition. The last batch of an epoch has 26 rows of 32."""
    recipe = small_recipe(
        training__dtype="float64", model__norm="batch", model__norm_variance=variance
    )
    trace, data = twin_trace(backend, recipe), prepared(recipe)
    batches = data.batches(0)
    mean, var = np.zeros(6), np.ones(6)
    for update, (rows_B, count) in enumerate(zip(batches.rows_TB, batches.count_T)):
        before = trace.parameters(update)
        z = data.train_x_ND[rows_B[:count]] @ before["linear1.weight"] + before["linear1.bias"]
        mean = 0.9 * mean + 0.1 * z.mean(axis=0)
        var = 0.9 * var + 0.1 * z.var(axis=0, ddof=variance == "unbiased")
        after = trace.parameters(update + 1)
        np.testing.assert_allclose(after["norm1.mean"], mean, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(after["norm1.var"], var, rtol=1e-12)
    assert count == 26


@pytest.mark.parametrize("backend", TWINS)
def test_evaluation_uses_the_running_statistics_and_leaves_them(backend: str) -> None:
    recipe = small_recipe(training__dtype="float64", model__norm="batch", model__dropout=0.5)
    trace, data = twin_trace(backend, recipe), prepared(recipe)
    last = trace.parameters(trace.header["updates"])
    h = data.held_out_x_ND[0]
    for i in (1, 2):
        z = h @ last[f"linear{i}.weight"] + last[f"linear{i}.bias"]
        normal = (z - last[f"norm{i}.mean"]) / np.sqrt(last[f"norm{i}.var"] + 1e-5)
        h = np.maximum(normal * last[f"norm{i}.weight"] + last[f"norm{i}.bias"], 0)
        np.testing.assert_allclose(trace.prediction[f"relu{i}"], h, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_a_variance_beyond_the_dtypes_range_raises_no_alarm(norm: str, backend: str) -> None:
    """In JAX's gradient its power of -3/2 underflows, and the gradient's terms no longer cancel."""
    recipe = small_recipe(
        model__norm=norm, schedule__peak=1e3, schedule__warmup=0, training__epochs=2
    )
    bounds = bounds_of(oracle_trace(recipe))
    assert bounds
    assert np.isfinite(bounds["parameters/2/linear1.weight"])  # and not from the start
    comparison = compare(twin_trace(backend, recipe), oracle_trace(recipe), bounds)
    assert comparison.verdict == "inconclusive"


def test_flax_statistics_would_be_float32() -> None:
    """This is why the twin sets them itself."""
    recipe = small_recipe(training__dtype="float64", model__norm="batch")
    with jax.enable_x64(True):
        own = nnx.BatchNorm(3, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        assert own.mean.dtype == np.float32
        model = jax_impl.model.build_model(recipe, prepared(recipe), CPU["jax"])
        assert model.norm1.mean.dtype == np.float64


@pytest.mark.parametrize("values", [{"training__batch": 89}, {"training__batch": 1}])
def test_a_batch_of_one_row_is_refused(values: dict[str, Any]) -> None:
    which = "a batch" if values["training__batch"] == 1 else "the last batch of an epoch"
    with pytest.raises(InputError, match=f"^training.batch: {which} has 1 row, and model.norm"):
        prepare(small_recipe(model__norm="batch", **values))
    prepare(small_recipe(model__norm="layer", **values))
    if values["training__batch"] != 1:
        prepare(small_recipe(model__norm="batch", training__drop_last=True, **values))


def test_a_bias_without_a_gradient_is_warned_of() -> None:
    warnings = prepare(small_recipe(model__norm="batch", optimizer__name="adam")).warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["model.bias"]
    for other in ({"model__bias": False}, {"optimizer__name": "sgd"}, {"model__norm": "layer"}):
        values = {"model__norm": "batch", "optimizer__name": "adam"} | other
        assert not prepare(small_recipe(**values)).warnings


# --- dropout


@pytest.mark.parametrize("backend", TWINS)
def test_both_twins_are_fed_the_masks_of_the_data(backend: str) -> None:
    recipe = small_recipe(model__dropout=0.3)
    data = prepared(recipe)
    for epoch in (0, 3):
        masks = data.masks(epoch)
        assert [mask.shape for mask in masks] == [(3, 32, 6), (3, 32, 5)]
        batches = TWINS[backend].load_batches(data, epoch, CPU[backend])
        for layer, mask_TBH in enumerate(masks):
            for t, count in enumerate((32, 32, 26)):
                mask = batches[t].masks[layer] if backend == "torch" else batches.masks[layer][t]
                assert mask.dtype in (torch.bool, np.bool_)
                np.testing.assert_array_equal(np.asarray(mask)[:count], mask_TBH[t, :count])


@given(dropout=st.floats(0.01, 0.99))
def test_masks_drop_the_share(dropout: float) -> None:
    data = prepared(small_recipe(model__hidden=(40,)))
    data = replace(data, dropout=dropout, hidden=(40, 40), epochs=2)
    drawn = [mask for epoch in (0, 1) for mask in data.masks(epoch)]
    share = np.mean([1 - mask.mean() for mask in drawn])
    assert abs(share - dropout) < 6 * np.sqrt(dropout * (1 - dropout) / (4 * 3 * 32 * 40))
    assert len({mask.tobytes() for mask in drawn}) == 4
    assert len({mask[t].tobytes() for mask in drawn for t in range(3)}) == 12


def test_masks_stand_in_the_hash() -> None:
    data = prepared(small_recipe(model__dropout=0.3))
    assert data.masks(0)
    assert not prepared(small_recipe()).masks(0)
    hashes = {data.hash, replace(data, dropout=0.31).hash, prepared(small_recipe()).hash}
    assert len(hashes) == 3


def test_dropout_keeps_the_mean() -> None:
    recipe = small_recipe(model__dropout=0.75, model__hidden=(4000,), model__activation="softplus")
    data = prepare(recipe)
    x_BD, masks = data.train_x_ND[:8], [data.masks(0)[0][0, :8]]
    outputs = forward(recipe.model, start(data), x_BD, Exact(), masks=masks).outputs
    assert abs(outputs["dropout1"].mean() / outputs["softplus1"].mean() - 1) < 0.05


# --- initial weights

SHAPES = ((30, 20), (20, 30))
DRAWS = 60
JAX_INITS: dict[str, Any] = {
    "torch": jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "flax": nnx.initializers.lecun_normal(),
    "xavier_uniform": jax.nn.initializers.glorot_uniform(),
    "xavier_normal": jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    "kaiming_uniform": jax.nn.initializers.he_uniform(),
    "kaiming_normal": jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    "orthogonal": jax.nn.initializers.orthogonal(),
}
TORCH_INITS: dict[str, Any] = {
    "torch": lambda w: torch.nn.Linear(w.shape[1], w.shape[0]).weight.detach(),
    "xavier_uniform": torch.nn.init.xavier_uniform_,
    "xavier_normal": torch.nn.init.xavier_normal_,
    "kaiming_uniform": lambda w: torch.nn.init.kaiming_uniform_(
        w, mode="fan_in", nonlinearity="relu"
    ),
    "kaiming_normal": lambda w: torch.nn.init.kaiming_normal_(
        w, mode="fan_in", nonlinearity="relu"
    ),
    "orthogonal": torch.nn.init.orthogonal_,
}


def ours(init: str, shape: tuple[int, int]) -> Any:
    generator = np.random.default_rng(5)
    return np.stack([draw_weight(init, generator, *shape) for _ in range(DRAWS)])


def of_jax(initialiser: Any, shape: tuple[int, int]) -> Any:
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return np.stack([np.asarray(initialiser(key, shape, jnp.float32)) for key in keys])


def of_torch(initialiser: Any, shape: tuple[int, int]) -> Any:
    torch.manual_seed(2)
    return np.stack([initialiser(torch.empty(shape[1], shape[0])).numpy().T for _ in range(DRAWS)])


def alike(a: Any, b: Any) -> bool:
    """Whether two samples have one mean and deviation and pass the test of Kolmogorov and Smirnov,
    with a false alarm in a thousand.
    """
    a, b = a.ravel(), b.ravel()
    error = np.sqrt(a.var() / a.size + b.var() / b.size)
    same_mean = abs(a.mean() - b.mean()) < 4 * error
    same_deviation = abs(a.std() / b.std() - 1) < 0.02
    return bool(same_mean and same_deviation and stats.ks_2samp(a, b).pvalue > 1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("init", "library"), [(i, "jax") for i in JAX_INITS] + [(i, "torch") for i in TORCH_INITS]
)
def test_weights_are_drawn_as_the_library_draws_them(
    init: str, library: str, shape: tuple[int, int]
) -> None:
    if library == "jax":
        theirs = of_jax(JAX_INITS[init], shape)
    else:
        theirs = of_torch(TORCH_INITS[init], shape)
    assert theirs.shape == ours(init, shape).shape
    assert alike(ours(init, shape), theirs)


def test_flax_draws_its_default_so() -> None:
    layers = [nnx.Linear(30, 20, rngs=nnx.Rngs(seed)) for seed in range(DRAWS)]
    kernels = np.stack([np.asarray(layer.kernel[...]) for layer in layers])
    assert alike(ours("flax", (30, 20)), kernels)
    assert not any(np.asarray(layer.bias[...]).any() for layer in layers)


@pytest.mark.parametrize(
    ("init", "other"),
    [
        ("xavier_normal", jax.nn.initializers.glorot_normal()),  # cut off at 2 deviations
        ("kaiming_normal", jax.nn.initializers.he_normal()),
        ("torch", nnx.initializers.lecun_normal()),
        ("kaiming_uniform", jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")),
        ("xavier_uniform", jax.nn.initializers.he_uniform()),
    ],
)
def test_another_distribution_is_told_apart(init: str, other: Any) -> None:
    assert not alike(ours(init, (30, 20)), of_jax(other, (30, 20)))


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_weights_are(shape: tuple[int, int]) -> None:
    for weight in ours("orthogonal", shape):
        product = weight.T @ weight if shape[0] > shape[1] else weight @ weight.T
        np.testing.assert_allclose(product, np.eye(20), atol=1e-14)
    # uniform: without the signs of R, the first column would lean to one side
    assert abs(ours("orthogonal", shape)[:, 0, 0].mean()) < 5 / np.sqrt(30 * DRAWS)


@pytest.mark.parametrize("init", [*JAX_INITS, "zeros"])
def test_initial_parameters_of_every_init(init: str) -> None:
    data = prepared(small_recipe(model__init=init, model__norm="layer"))
    first_layers = ["linear1.weight", "linear1.bias", "norm1.weight", "norm1.bias"]
    assert list(data.parameters)[:4] == first_layers
    assert (data.parameters["norm1.weight"] == 1).all()
    assert not data.parameters["norm1.bias"].any()
    assert not any(name.startswith("norm3") for name in data.parameters)
    for i in (1, 2, 3):
        assert data.parameters[f"linear{i}.bias"].any() == (init == "torch")
        assert data.parameters[f"linear{i}.weight"].any() == (init != "zeros")
        assert data.parameters[f"linear{i}.weight"].dtype == np.float64


def test_torch_draws_keep_their_bits_and_a_bias_changes_no_weight() -> None:
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((0, 2))))
    with_bias = prepared(small_recipe(model__bias=True)).parameters
    without = prepared(small_recipe(model__bias=False)).parameters
    for i, (fan_in, fan_out) in enumerate(((6, 6), (6, 5), (5, 3)), start=1):
        weight = generator.uniform(-(fan_in**-0.5), fan_in**-0.5, (fan_in, fan_out))
        np.testing.assert_array_equal(with_bias[f"linear{i}.weight"], weight)
        np.testing.assert_array_equal(without[f"linear{i}.weight"], weight)
        bias = generator.uniform(-(fan_in**-0.5), fan_in**-0.5, fan_out)
        np.testing.assert_array_equal(with_bias[f"linear{i}.bias"], bias)
        assert f"linear{i}.bias" not in without


# --- presets


def of_preset(name: str, **values: Any) -> Any:
    return Recipe.from_dict({"model": {"preset": name, **values}}).model


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_presets_are_the_librarys_defaults(name: str) -> None:
    model = of_preset(name)
    if name.startswith("torch"):
        batch_norm = nn.BatchNorm1d(3)
        assert model.init == "torch"
        assert {nn.LayerNorm(3).eps, batch_norm.eps} == {model.norm_eps}
        assert (batch_norm.momentum, model.norm_variance) == (model.norm_momentum, "unbiased")
    else:
        norms = {"layer_norm": "layer", "gelu_layer_norm": "layer", "batch_norm": "batch"}
        assert model.init == "flax"
        assert model.norm == norms.get(name.partition(".")[2], "none")
    if model.norm == "layer":
        assert nnx.LayerNorm(3, rngs=nnx.Rngs(0)).epsilon == model.norm_eps
    if model.norm == "batch":
        flax_norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        assert flax_norm.epsilon == model.norm_eps
        assert flax_norm.momentum == pytest.approx(1 - model.norm_momentum)
        assert model.norm_variance == "biased"
    if "gelu" in name:
        z = np.linspace(-4, 4, 101)
        with jax.enable_x64(True):
            if name.startswith("torch"):
                theirs = nn.GELU()(torch.tensor(z)).numpy()
            else:
                theirs = np.asarray(nnx.gelu(z))
        np.testing.assert_allclose(activate(model.activation, z, Exact()), theirs, atol=1e-14)
        with pytest.raises(InputError, match=r"model\.activation: .* has no such knob"):
            of_preset(name, activation="relu")


def test_presets_leave_the_rest_free() -> None:
    model = of_preset("flax.batch_norm", hidden=[3], dropout=0.5, activation="elu", bias=False)
    assert (model.hidden, model.dropout, model.activation, model.bias) == ((3,), 0.5, "elu", False)
    assert of_preset("torch", norm="layer").norm == "layer"


# --- planted faults


def other_model(**values: Any) -> Any:
    def put(module: Any) -> tuple[str, Any]:
        original = of_pair(module, "build_model")

        def build_model(recipe: Recipe, *rest: Any) -> Any:
            return original(replace(recipe, model=replace(recipe.model, **values)), *rest)

        return "build_model", build_model

    return put


def masks_one_update_late(module: Any) -> tuple[str, Any]:
    original = module.load_batches

    def load_batches(data: Any, epoch: int, device: Any) -> Any:
        class Late(type(data)):  # type: ignore[misc] # mypy takes no call as a base
            def masks(self, epoch: int) -> Any:
                return [np.roll(mask_TBH, 1, axis=0) for mask_TBH in super().masks(epoch)]

        late = object.__new__(Late)
        late.__dict__.update(data.__dict__)
        return original(late, epoch, device)

    return "load_batches", load_batches


def statistics_of_padding(module: Any) -> tuple[str, Any]:
    """Take batch statistics over all rows of the batch. Only JAX pads."""
    original = module.load_batches

    def load_batches(data: Any, epoch: int, device: Any) -> Any:
        batches = original(data, epoch, device)
        return batches._replace(used=jnp.full_like(batches.used, 32))

    return "load_batches", load_batches


BATCH = {"model__norm": "batch"}
FAULTS: dict[str, tuple[dict[str, Any], Any, tuple[str, int]]] = {
    "eps of Flax's LayerNorm": ({"model__norm": "layer"}, other_model(norm_eps=1e-6), ("loss", 0)),
    "eps of 1e-3": (BATCH, other_model(norm_eps=1e-3), ("loss", 0)),
    "momentum of Flax's meaning": (BATCH, other_model(norm_momentum=0.9), ("parameters", 0)),
    "biased": (BATCH, other_model(norm_variance="biased"), ("parameters", 0)),
    "unbiased": (
        BATCH | {"model__norm_variance": "biased"},
        other_model(norm_variance="unbiased"),
        ("parameters", 0),
    ),
    "tanh gelu": ({"model__activation": "gelu"}, other_model(activation="gelu_tanh"), ("loss", 0)),
    "dropout not scaled": ({"model__dropout": 0.2}, other_model(dropout=0.0), ("loss", 0)),
    "mask of another update": ({"model__dropout": 0.2}, masks_one_update_late, ("loss", 0)),
}


@pytest.mark.parametrize("backend", TWINS)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught_at_its_place(
    fault: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, put, place = FAULTS[fault]
    recipe = small_recipe(training__dtype="float64", training__epochs=2, **values)
    module = TWINS[backend]
    patch_pair(monkeypatch, module, *put(module))
    trace = module.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    assert first_place(trace, oracle_trace(recipe), {}) == place


def test_statistics_over_padding_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(training__dtype="float64", training__epochs=2, **BATCH)
    patch_pair(monkeypatch, jax_impl.train, *statistics_of_padding(jax_impl.train))
    trace = jax_impl.train.train(recipe, prepared(recipe), watch=Watch(parameters_every=1))
    comparison = compare(trace, oracle_trace(recipe), {})
    assert comparison.first is not None
    assert comparison.first.update == 2  # the short batch


def test_fast_variance_is_caught() -> None:
    """Flax's default is the mean of the squares less the square of the mean. Beside a large mean it
    loses the variance.
    """
    z = np.random.default_rng(0).normal(1e3, 1.0, (4, 8))
    with jax.enable_x64(True):
        errors = []
        for fast in (False, True):
            layer = nnx.LayerNorm(
                8, epsilon=1e-5, use_fast_variance=fast, dtype=jnp.float64, rngs=nnx.Rngs(0)
            )
            deviation = np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
            right = (z - z.mean(axis=1, keepdims=True)) / deviation
            errors.append(np.abs(np.asarray(layer(z)) - right).max())
    assert errors[0] < SEMANTICS < errors[1]
