"""A loss function in JAX records its layers in call order, and trains as without a recorder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from flax.training.train_state import TrainState

import lockstep
from lockstep.cli import main
from lockstep.errors import InputError, RecorderWarning
from lockstep.records.trace import Trace

UPDATES, B, D, H, K = 3, 6, 5, 4, 3
random = np.random.default_rng(0)
X_UBD = random.standard_normal((UPDATES, B, D)).astype(np.float32)
Y_UB = random.integers(0, K, (UPDATES, B))
cross_entropy = optax.softmax_cross_entropy_with_integer_labels
Tree = Any
SLOW = pytest.mark.slow


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape) / np.sqrt(shape[0])


# --- models of each kind: (parameters, loss_of, layers in call order)


def layer_norm(x: jax.Array, scale: Tree) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale["g"] + scale["b"]


def plain_parameters() -> Tree:
    return {
        "z_first": {"w": normal(D, H), "b": normal(H)},
        "norm": {"g": 1 + normal(H, seed=1), "b": normal(H)},
        "a_last": {"w": normal(H, K), "b": normal(K)},
    }


def plain_logits(parameters: Tree, x_BD: jax.Array) -> jax.Array:
    h_BH = x_BD @ parameters["z_first"]["w"] + parameters["z_first"]["b"]
    h_BH = jax.nn.gelu(layer_norm(h_BH, parameters["norm"]))
    return h_BH @ parameters["a_last"]["w"] + parameters["a_last"]["b"]


def plain_loss(parameters: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
    return cross_entropy(plain_logits(parameters, x), y).mean()


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.z_first = nnx.Linear(D, H, rngs=rngs)
        self.norm = nnx.BatchNorm(H, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.a_last = nnx.Linear(H, K, rngs=rngs)

    def __call__(self, x_BD: jax.Array) -> jax.Array:
        h_BH = jax.nn.gelu(self.norm(self.z_first(x_BD)))
        return self.a_last(self.drop(h_BH))


def nnx_loss(model: Net, x: jax.Array, y: jax.Array) -> jax.Array:
    return cross_entropy(model(x), y).mean()


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x_BD: jax.Array) -> jax.Array:
        h_BH = linen.Dense(H, name="z_first")(x_BD)
        h_BH = linen.gelu(linen.LayerNorm(name="norm")(h_BH))
        return linen.Dense(K, name="a_last")(h_BH)


def linen_loss(variables: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
    return cross_entropy(LinenNet().apply(variables, x), y).mean()


@jax.tree_util.register_dataclass
@dataclass
class Affine:
    w: jax.Array
    b: jax.Array

    def __call__(self, x_D: jax.Array) -> jax.Array:
        return self.w @ x_D + self.b


@jax.tree_util.register_dataclass
@dataclass
class Stack:
    z_first: Affine
    middle: list[Affine]
    a_last: Affine

    def __call__(self, x_D: jax.Array) -> jax.Array:
        h_H = jax.nn.relu(self.z_first(x_D))
        for affine in self.middle:
            h_H = affine(h_H)
        return self.a_last(h_H)


def dataclass_parameters() -> Stack:
    middle = [Affine(normal(H, H, seed=seed), normal(H)) for seed in (1, 2)]
    return Stack(Affine(normal(H, D), normal(H)), middle, Affine(normal(K, H), normal(K)))


def dataclass_loss(model: Stack, x: jax.Array, y: jax.Array) -> jax.Array:
    return cross_entropy(jax.vmap(model)(x), y).mean()


@dataclass(frozen=True)
class Kind:
    """A way to write a model.

    Attributes:
        start: makes the parameters.
        loss_of: the loss function.
        layers: what is recorded of it, without the inputs of layers.
    """

    start: Callable[[], Any]
    loss_of: Callable[..., Any]
    layers: list[str]


KINDS = {
    "plain": Kind(plain_parameters, plain_loss, ["z_first", "norm", "gelu", "a_last"]),
    "nnx": Kind(
        lambda: Net(nnx.Rngs(0)), nnx_loss, ["z_first", "norm", "gelu", "dropout", "a_last"]
    ),
    "linen": Kind(
        lambda: LinenNet().init(jax.random.key(0), X_UBD[0]),
        linen_loss,
        ["z_first", "norm", "gelu", "a_last"],
    ),
    "dataclasses": Kind(
        dataclass_parameters,
        dataclass_loss,
        ["z_first", "relu", "middle.0", "middle.1", "a_last"],
    ),
}


# --- loops


def as_dtype(tree: Tree, dtype: Any) -> Tree:
    """The parameters in a dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def train(
    kind: Kind, recorder: lockstep.Recorder | None, compiled: bool = False, dtype: Any = None
) -> Tree:
    """Train for some updates, and return the parameters."""
    parameters = kind.start()
    if isinstance(parameters, nnx.Module):
        return train_module(kind, recorder, compiled)
    if dtype is not None:
        parameters = as_dtype(parameters, dtype)
    optimizer = optax.adamw(1e-2)
    state = optimizer.init(parameters)
    gradient_of = jax.value_and_grad(kind.loss_of)
    if recorder is not None:
        recorder.start(parameters)
        gradient_of = recorder.value_and_grad(kind.loss_of)

    def step(parameters: Tree, state: Tree, x: jax.Array, y: jax.Array) -> Tree:
        loss, gradients = gradient_of(parameters, x, y)
        changes, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, changes), state, loss

    if compiled:
        step = jax.jit(step)
        step = step if recorder is None else recorder.listen(step)
    for x, y in zip(X_UBD, Y_UB):
        x = x if dtype is None else jnp.asarray(x, dtype)
        parameters, state, loss = step(parameters, state, x, y)
        if recorder is not None:
            recorder.update(parameters=parameters, moments=state, loss=loss)
    return parameters


def train_module(kind: Kind, recorder: lockstep.Recorder | None, compiled: bool) -> Tree:
    """The same with an NNX module, which is changed in place."""
    model = kind.start()
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)
    gradient_of = nnx.value_and_grad(kind.loss_of)
    if recorder is not None:
        recorder.start(model)
        gradient_of = recorder.value_and_grad(kind.loss_of)

    def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        loss, gradients = gradient_of(model, x, y)
        optimizer.update(model, gradients)
        return loss

    if compiled:
        step = nnx.jit(step)
        step = step if recorder is None else recorder.listen(step)
    for x, y in zip(X_UBD, Y_UB):
        loss = step(model, optimizer, jnp.asarray(x), jnp.asarray(y))
        if recorder is not None:
            recorder.update(parameters=model, moments=optimizer, loss=loss)
    return nnx.state(model)


def record(path: Path, kind: Kind, **options: Any) -> Trace:
    with lockstep.Recorder(path, backend="jax") as recorder:
        train(kind, recorder, **options)
    return Trace.load(path)


def outputs(trace: Trace) -> list[str]:
    return [layer for layer in trace.header["layers"] if not layer.endswith(".input")]


def forward(trace: Trace, update: int, layer: str) -> np.ndarray:
    return trace.arrays[f"detail/{update}/forward/{layer}"]


def assert_same_bits(left: Tree, right: Tree) -> None:
    ours, theirs = jax.tree.leaves(left), jax.tree.leaves(right)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


# --- nothing changes


QUICK = [name if name in ("plain", "nnx") else pytest.param(name, marks=SLOW) for name in KINDS]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", QUICK)
def test_recording_changes_no_bit_and_gives_layers_in_call_order(
    name: str, compiled: bool, tmp_path: Path
) -> None:
    kind = KINDS[name]
    bare = train(kind, None, compiled)
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorded = train(kind, recorder, compiled)
    assert_same_bits(bare, recorded)
    trace = Trace.load(tmp_path / "trace")
    assert outputs(trace) == kind.layers
    for update in range(UPDATES):
        assert forward(trace, update, "a_last").shape == (B, K)
        np.testing.assert_array_equal(trace.arrays[f"detail/{update}/batch/x"], X_UBD[update])
        names = {key.split("/")[-1] for key in trace.arrays if f"{update}/gradients/" in key}
        assert names == {name for name in trace.parameters(0) if ".mean" not in name} - {"norm.var"}
    assert (trace.series("loss") > 0).all()
    assert (trace.series("grad_norm") > 0).all()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_recording_changes_no_bit_of_bfloat16(compiled: bool, tmp_path: Path) -> None:
    kind = KINDS["plain"]
    bare = train(kind, None, compiled, jnp.bfloat16)
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorded = train(kind, recorder, compiled, jnp.bfloat16)
    assert_same_bits(bare, recorded)
    assert Trace.load(tmp_path / "trace").header["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["plain", "nnx"])
def test_a_compiled_step_gives_the_outputs_of_the_same_state(name: str, tmp_path: Path) -> None:
    eager = record(tmp_path / "eager", KINDS[name])
    compiled = record(tmp_path / "jit", KINDS[name], compiled=True)
    assert eager.arrays.keys() == compiled.arrays.keys()
    assert eager.header["layers"] == compiled.header["layers"]
    for layer in eager.header["layers"]:  # with the same dropout mask
        np.testing.assert_array_equal(forward(eager, 0, layer), forward(compiled, 0, layer))
    for update in range(UPDATES):
        logits = forward(eager, update, "a_last")
        np.testing.assert_allclose(logits, forward(compiled, update, "a_last"), atol=1e-5)


@pytest.mark.parametrize("donate", [False, True])
def test_a_compiled_step_without_listen_is_called_again_with_the_batch(
    donate: bool, tmp_path: Path
) -> None:
    def step(parameters: Tree, state: Tree, batch: Tree) -> Tree:
        loss, gradients = gradient_of(parameters, batch)
        changes, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, changes), state, loss

    def loss_of(parameters: Tree, batch: Tree) -> jax.Array:
        return plain_loss(parameters, **batch)

    expected = record(tmp_path / "listened", KINDS["plain"], compiled=True)
    optimizer = optax.adamw(1e-2)
    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    gradient_of = recorder.value_and_grad(loss_of)
    parameters = recorder.start(plain_parameters())
    state = optimizer.init(parameters)
    compiled = jax.jit(step, donate_argnums=0 if donate else ())
    for x, y in zip(X_UBD, Y_UB):
        batch = {"x": x, "y": y}
        parameters, state, _ = compiled(parameters, state, batch)
        if donate:
            with pytest.raises(InputError, match=r"values of .* are not known"):
                recorder.update(parameters=parameters, moments=state, batch=batch)
            return
        recorder.update(parameters=parameters, moments=state, batch=batch)
    trace = recorder.finish()
    assert trace.header["layers"] == expected.header["layers"]
    assert trace.header["inputs"] == expected.header["inputs"]
    assert trace.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(trace.arrays[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_compiled_step_of_a_module_is_called_again_from_its_state_before(tmp_path: Path) -> None:
    class Normed(nnx.Module):
        def __init__(self) -> None:
            self.l1 = nnx.Linear(D, H, rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(H, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(self.l1(x))

    @nnx.jit
    def step(model: Normed, optimizer: nnx.Optimizer, x: jax.Array) -> None:
        _, gradients = gradient_of(model, x)
        optimizer.update(model, gradients)

    model = Normed()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    recorder.start(model)
    gradient_of = recorder.value_and_grad(lambda model, x: (model(x) ** 3).mean())
    for x in X_UBD:
        step(model, optimizer, x)
        recorder.update(parameters=model, moments=optimizer, batch={"x": x})
    trace = recorder.finish()
    for update, x in enumerate(X_UBD):
        before = trace.parameters(update)
        expected = x @ before["l1.kernel"] + before["l1.bias"]
        np.testing.assert_allclose(forward(trace, update, "l1"), expected, rtol=1e-4, atol=1e-5)


def test_donated_arguments_and_a_state_of_flax_may_be_compiled(tmp_path: Path) -> None:
    def step(state: TrainState, x: jax.Array, y: jax.Array, rows: int) -> tuple[Any, jax.Array]:
        loss, gradients = gradient_of(state.params, x[:rows], y[:rows])
        return state.apply_gradients(grads=gradients), loss

    variables = LinenNet().init(jax.random.key(0), X_UBD[0])
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        state = TrainState.create(
            apply_fn=LinenNet().apply, params=recorder.start(variables), tx=optax.adam(1e-2)
        )
        recorder.watch(state.params, state.tx)
        gradient_of = recorder.value_and_grad(linen_loss)
        compiled = jax.jit(step, donate_argnums=0, static_argnames="rows")
        compiled = recorder.listen(compiled)
        for x, y in zip(X_UBD, Y_UB):
            state, loss = compiled(state, x, y, rows=4)
            recorder.update(parameters=state.params, moments=state.opt_state, loss=loss)
    trace = Trace.load(tmp_path / "trace")
    assert outputs(trace) == KINDS["linen"].layers
    assert forward(trace, 2, "a_last").shape == (4, K)
    assert trace.header["read"]["optimizers"][0]["name"] == "adam"
    assert trace.series("lr").tolist() == [0.01] * UPDATES


@pytest.mark.parametrize("transform", [jax.value_and_grad, nnx.value_and_grad])
def test_a_compiled_gradient_function_trains_as_it_did(transform: Any, tmp_path: Path) -> None:
    parameters = plain_parameters()

    def compile_gradient(loss_of: Callable[..., Any], **options: Any) -> Any:
        return jax.jit(transform(loss_of, **options))

    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorder.start(parameters)
        gradient_of = recorder.value_and_grad(plain_loss, transform=compile_gradient)
        results = gradient_of(parameters, X_UBD[0], Y_UB[0])
        recorder.update()
    assert_same_bits(results, compile_gradient(plain_loss)(parameters, X_UBD[0], Y_UB[0]))
    assert outputs(Trace.load(tmp_path / "trace")) == KINDS["plain"].layers


# --- what a layer is


def test_outputs_inputs_and_gradients_are_those_of_the_loss(tmp_path: Path) -> None:
    trace = record(tmp_path / "trace", KINDS["plain"])
    parameters = plain_parameters()
    first = X_UBD[0] @ parameters["z_first"]["w"] + parameters["z_first"]["b"]
    norm = layer_norm(first, parameters["norm"])
    expected = {"z_first": first, "norm": norm, "gelu": jax.nn.gelu(norm)}
    expected["a_last"] = plain_logits(parameters, X_UBD[0])
    for layer, output in expected.items():
        np.testing.assert_allclose(forward(trace, 0, layer), output, rtol=1e-5, atol=1e-6)
    assert trace.header["inputs"] == {
        "z_first": "batch/x",
        "norm": "forward/z_first",
        "gelu": "forward/norm",
        "a_last": "forward/gelu",
    }
    loss, gradients = jax.value_and_grad(plain_loss)(parameters, X_UBD[0], Y_UB[0])
    assert trace.series("loss")[0] == loss
    assert trace.series("loss").dtype == np.float32
    gradient = trace.arrays["detail/0/gradients/norm.g"]
    np.testing.assert_array_equal(gradient, gradients["norm"]["g"])


def heard(path: Path, loss_of: Callable[..., Any], *arguments: Any, **options: Any) -> Trace:
    """The trace of one update."""
    with lockstep.Recorder(path, backend="jax", **options) as recorder:
        recorder.start(arguments[0])
        recorder.value_and_grad(loss_of)(*arguments)
        recorder.update()
    return Trace.load(path)


def test_a_layer_fed_by_something_else_records_its_input(tmp_path: Path) -> None:
    def loss_of(p: Tree, x: jax.Array) -> jax.Array:
        return (jnp.tanh(x @ p["l1"]["w"]) @ p["l2"]["w"]).sum()

    parameters = {"l1": {"w": normal(D, H)}, "l2": {"w": normal(H, K)}}
    trace = heard(tmp_path / "trace", loss_of, parameters, X_UBD[0])
    assert trace.header["layers"] == ["l1", "l2.input", "l2"]
    assert trace.header["inputs"] == {"l1": "batch/x", "l2": "forward/l2.input"}
    tanh = np.tanh(forward(trace, 0, "l1"))
    np.testing.assert_allclose(forward(trace, 0, "l2.input"), tanh, rtol=1e-6)


def test_kernels_of_one_path_are_layers_by_their_own_names(tmp_path: Path) -> None:
    def loss_of(p: Tree, x: jax.Array) -> jax.Array:
        block = p["block"]
        h = jnp.tanh(x @ block["w1"] + block["b1"])
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))
        return (h @ block["w2"] + block["b2"] + p["shift"]).sum() + 1e-4 * decay

    block = {"w1": normal(D, H), "b1": normal(H), "w2": normal(H, K), "b2": normal(K)}
    parameters = {"block": block, "shift": normal(K)}
    trace = heard(tmp_path / "trace", loss_of, parameters, X_UBD[0])
    assert outputs(trace) == ["block.w1", "block.w2", "shift"]
    first = X_UBD[0] @ block["w1"] + block["b1"]
    np.testing.assert_allclose(forward(trace, 0, "block.w1"), first, rtol=1e-6)


def inline_norm(p: Tree, x: jax.Array) -> jax.Array:
    h = (x @ p["l1"]["w"]).astype(jnp.bfloat16)
    wide = h.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    h = (wide - mean) * jax.lax.rsqrt(wide.var(-1, keepdims=True) + 1e-3)
    return ((h * p["norm"]["g"] + p["norm"]["b"]).astype(jnp.bfloat16) ** 2).sum()


def test_a_normalisation_written_out_is_one_layer_with_its_scale(tmp_path: Path) -> None:
    parameters = {"l1": {"w": normal(D, H)}, "norm": {"g": jnp.ones(H), "b": jnp.ones(H)}}
    trace = heard(tmp_path / "trace", inline_norm, parameters, X_UBD[0])
    assert trace.header["layers"] == ["l1", "norm"]
    assert trace.header["inputs"]["norm"] == "forward/l1"
    assert trace.header["read"]["modules"] == {"norm": {"eps": 1e-3}}


def test_parameters_of_a_block_and_tables_are_no_layers_of_other_names(tmp_path: Path) -> None:
    def loss_of(p: Tree, x: jax.Array) -> jax.Array:
        h = x @ p["block"]["dense"]["w"] + p["positions"]
        h = jnp.concatenate([jnp.broadcast_to(p["token"], (1, H)), h])
        return (p["block"]["gamma"] * h).sum()

    parameters = {
        "block": {"dense": {"w": normal(D, H)}, "gamma": jnp.ones(H)},
        "positions": normal(B, H),
        "token": normal(1, H),
    }
    trace = heard(tmp_path / "trace", loss_of, parameters, X_UBD[0])
    assert outputs(trace) == ["block.dense", "block.gamma"]


def test_a_layer_that_is_called_twice_has_a_number(tmp_path: Path) -> None:
    def loss_of(p: Tree, tokens: jax.Array) -> jax.Array:
        h = p["embed"]["w"][tokens] @ p["dense"]["w"]
        return (h @ p["embed"]["w"].T).sum()

    parameters = {"embed": {"w": normal(K, H)}, "dense": {"w": normal(H, H)}}
    trace = heard(tmp_path / "trace", loss_of, parameters, jnp.asarray(Y_UB[0]))
    assert outputs(trace) == ["embed", "dense", "embed#2"]
    assert trace.header["inputs"]["embed"] == "batch/tokens"
    assert forward(trace, 0, "embed#2").shape == (B, K)


class Twice(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.shared = nnx.Linear(H, H, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(H, rngs=rngs) for _ in range(2)])
        self.scales = nnx.List([Scale(2.0), Scale(3.0)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = self.shared(x)
        for norm in self.norms:
            x = norm(x)
        for scale in self.scales:
            x = scale(x)
        return x


class Scale(nnx.Module):
    def __init__(self, factor: float) -> None:
        self.factor = nnx.Param(jnp.asarray([factor]))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.factor


def test_calls_in_a_python_loop_are_told_apart(tmp_path: Path) -> None:
    model, x = Twice(), jnp.asarray(normal(B, H))
    trace = heard(tmp_path / "trace", lambda model, x: model(x).sum(), model, x)
    expected = ["shared", "shared#2", "norms.0", "norms.1", "scales.0", "scales.1"]
    assert trace.header["layers"] == expected
    once = model.shared(x)
    np.testing.assert_allclose(forward(trace, 0, "shared"), once, rtol=1e-6)
    np.testing.assert_allclose(forward(trace, 0, "shared#2"), model.shared(once), rtol=1e-6)
    last = forward(trace, 0, "norms.1") * 6
    np.testing.assert_allclose(forward(trace, 0, "scales.1"), last, rtol=1e-6)


def test_layers_under_remat_jit_and_a_custom_derivative_are_heard(tmp_path: Path) -> None:
    @jax.custom_vjp
    def product(h: jax.Array, w: jax.Array) -> jax.Array:
        return h @ w

    product.defvjp(lambda h, w: (h @ w, (h, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))

    @jax.jit
    def dense(h: jax.Array, p: Tree) -> jax.Array:
        return h @ p["w"] + p["b"]

    def loss_of(p: Tree, x: jax.Array) -> jax.Array:
        h = jax.checkpoint(dense)(x, p["l1"])
        h = dense(dense(h, p["l2"]), p["l3"])
        return product(h, p["l4"]["w"]).sum()

    parameters = {
        "l1": {"w": normal(D, H), "b": normal(H)},
        "l2": {"w": normal(H, H), "b": normal(H)},
        "l3": {"w": normal(H, H), "b": normal(H)},
        "l4": {"w": normal(H, K)},
    }
    trace = heard(tmp_path / "trace", jax.jit(loss_of), parameters, X_UBD[0])
    assert trace.header["layers"] == ["l1", "l2", "l3", "l4"]
    third = forward(trace, 0, "l2") @ parameters["l3"]["w"] + parameters["l3"]["b"]
    np.testing.assert_allclose(forward(trace, 0, "l3"), third, rtol=1e-5)


def test_stacked_layers_of_a_scan_are_recorded_in_one_array(tmp_path: Path) -> None:
    def loss_of(p: Tree, x: jax.Array) -> jax.Array:
        def block(h: jax.Array, layer: Tree) -> tuple[jax.Array, None]:
            h = layer_norm(h, layer["norm"])
            return jnp.tanh(h @ layer["dense"]["w"]), None

        h, _ = jax.lax.scan(block, x @ p["embed"]["w"], p["layers"])
        return (h @ p["out"]["w"]).sum()

    layers = {
        "norm": {"g": jnp.ones((3, H)), "b": jnp.zeros((3, H))},
        "dense": {"w": normal(3, H, H)},
    }
    parameters = {"embed": {"w": normal(D, H)}, "layers": layers, "out": {"w": normal(H, K)}}
    trace = heard(tmp_path / "trace", loss_of, parameters, X_UBD[0])
    assert outputs(trace) == ["embed", "layers.norm", "layers.dense", "out"]
    norm = forward(trace, 0, "layers.norm")
    dense = forward(trace, 0, "layers.dense")
    assert norm.shape == dense.shape == (3, B, H)
    np.testing.assert_allclose(dense, norm @ layers["dense"]["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [H, B], ids=["other width", "square"])
def test_vmap_leaves_the_batch_axis_first(width: int, tmp_path: Path) -> None:
    def loss_of(p: Tree, x: jax.Array) -> jax.Array:
        def one(x_D: jax.Array) -> jax.Array:
            return jax.nn.relu(p["l1"]["w"] @ x_D).sum()

        return jax.vmap(one)(x).mean()

    weight = normal(width, D)
    trace = heard(tmp_path / "trace", loss_of, {"l1": {"w": weight}}, X_UBD[0])
    expected = X_UBD[0] @ weight.T
    np.testing.assert_allclose(forward(trace, 0, "l1"), expected, rtol=1e-5, atol=1e-6)


class Recurrent(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.lstm = nnx.RNN(nnx.LSTMCell(D, H, rngs=rngs), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, H, decode=False, rngs=rngs)
        self.conv = nnx.Conv(H, H, (3,), rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        return self.conv(self.attention(self.lstm(x_BTD)))


def test_recurrent_attention_and_convolution_modules(tmp_path: Path) -> None:
    model = Recurrent()
    x_BTD = normal(B, 7, D)
    trace = heard(tmp_path / "trace", lambda model, x: model(x).sum(), model, x_BTD)
    attention = [f"attention.{name}" for name in ("query", "key", "value")]
    attention += ["dot_product_attention", "attention.out"]
    assert outputs(trace) == ["lstm.cell", *attention, "conv"]
    np.testing.assert_allclose(forward(trace, 0, "lstm.cell"), model.lstm(x_BTD), rtol=1e-5)
    np.testing.assert_allclose(forward(trace, 0, "conv"), model(x_BTD), rtol=1e-4, atol=1e-6)


def test_equinox_modules(tmp_path: Path) -> None:
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")
    key = jax.random.key(0)

    class Model(eqx.Module):
        linear: Any
        norm: Any
        attention: Any
        activation: Any = jax.nn.gelu

        def __call__(self, x_TD: jax.Array) -> jax.Array:
            h_TH = self.activation(jax.vmap(self.norm)(jax.vmap(self.linear)(x_TD)))
            return self.attention(h_TH, h_TH, h_TH)

    model = Model(
        eqx.nn.Linear(D, H, key=key),
        eqx.nn.LayerNorm(H),
        eqx.nn.MultiheadAttention(2, H, key=key),
    )
    x_BTD = normal(B, 7, D)

    def loss_of(model: Model, x: jax.Array) -> jax.Array:
        return (jax.vmap(model)(x) ** 2).mean()

    trace = heard(tmp_path / "trace", loss_of, model, x_BTD)
    with lockstep.Recorder(tmp_path / "jit", backend="jax") as recorder:
        recorder.start(model)
        step = recorder.listen(eqx.filter_jit(recorder.value_and_grad(loss_of)))
        step(model, x_BTD)
        recorder.update()
    assert Trace.load(tmp_path / "jit").header["layers"] == trace.header["layers"]
    projections = [f"attention.{name}_proj" for name in ("query", "key", "value")]
    expected = ["linear", "norm", "gelu", *projections, "softmax", "attention.output_proj"]
    assert outputs(trace) == expected
    assert forward(trace, 0, "linear").shape == (B, 7, H)
    norms = jax.vmap(jax.vmap(lambda x: model.norm(model.linear(x))))(x_BTD)
    np.testing.assert_allclose(forward(trace, 0, "norm"), norms, rtol=1e-4, atol=1e-5)


def test_haiku_modules(tmp_path: Path) -> None:
    hk = pytest.importorskip("haiku", reason="dm-haiku is not installed")

    def net(x: jax.Array) -> jax.Array:
        h = hk.LayerNorm(-1, True, True)(hk.nets.MLP([H, H])(x))
        return hk.Linear(K)(hk.dropout(hk.next_rng_key(), 0.5, h))

    model = hk.transform(net)
    parameters = model.init(jax.random.key(0), X_UBD[0])

    def loss_of(parameters: Tree, key: jax.Array, x: jax.Array) -> jax.Array:
        return model.apply(parameters, key, x).sum()

    trace = heard(tmp_path / "trace", loss_of, parameters, jax.random.key(1), X_UBD[0])
    expected = ["mlp/~/linear_0", "relu", "mlp/~/linear_1", "layer_norm", "linear"]
    assert outputs(trace) == expected
    assert [name for name in trace.arrays if "/batch/" in name] == ["detail/0/batch/x"]


def test_settings_that_the_operations_show_are_read(tmp_path: Path) -> None:
    class Norms(nnx.Module):
        def __init__(self) -> None:
            self.layer = nnx.LayerNorm(H, epsilon=3e-6, rngs=nnx.Rngs(0))
            self.rms = nnx.RMSNorm(H, epsilon=1e-4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.1, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            h = jax.nn.gelu(self.rms(self.drop(self.layer(x))))
            return jax.nn.gelu(h, approximate=False)

    trace = heard(tmp_path / "trace", lambda model, x: model(x).sum(), Norms(), normal(B, H))
    assert trace.header["read"]["modules"] == {
        "layer": {"eps": 3e-6},
        "dropout": {"p": 0.1},
        "rms": {"eps": 1e-4},
        "gelu": {"approximate": "tanh"},
        "gelu#2": {"approximate": "none"},
    }
    assert trace.header["inputs"]["rms"] == "forward/dropout"


# --- arguments


def test_options_are_those_of_jax(tmp_path: Path) -> None:
    def loss_of(x: jax.Array, parameters: Tree, *, y: jax.Array) -> Any:
        loss = plain_loss(parameters, x, y)
        return loss, {"loss": loss, "note": y}

    parameters = plain_parameters()
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorder.start(parameters)
        gradient_of = recorder.value_and_grad(loss_of, 1, True, allow_int=True)
        (loss, _), gradients = gradient_of(X_UBD[0], parameters, y=Y_UB[0])
        recorder.update()
    expected, tree = jax.value_and_grad(plain_loss)(parameters, X_UBD[0], Y_UB[0])
    assert_same_bits((loss, gradients), (expected, tree))
    trace = Trace.load(tmp_path / "trace")
    assert outputs(trace) == KINDS["plain"].layers
    assert {key for key in trace.arrays if "batch" in key} == {
        "detail/0/batch/x",
        "detail/0/batch/y",
    }


def test_a_filter_of_nnx_says_what_is_trained(tmp_path: Path) -> None:
    model = Net(nnx.Rngs(0))
    kernels = nnx.DiffState(0, nnx.All(nnx.Param, nnx.PathContains("kernel")))
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorder.start(model)
        gradient_of = recorder.value_and_grad(nnx_loss, argnums=kernels)
        gradient_of(model, X_UBD[0], Y_UB[0])
        recorder.update()
    trace = Trace.load(tmp_path / "trace")
    assert outputs(trace) == KINDS["nnx"].layers
    gradients = [name for name in trace.arrays if "/gradients/" in name]
    assert [name.rpartition("/")[2] for name in gradients] == ["a_last.kernel", "z_first.kernel"]


def test_prints_are_not_repeated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def loss_of(parameters: Tree, x: jax.Array) -> jax.Array:
        jax.debug.print("one line")
        return (x @ parameters["l1"]["w"]).sum()

    trace = heard(tmp_path / "trace", loss_of, {"l1": {"w": normal(D, H)}}, X_UBD[0])
    jax.effects_barrier()
    assert trace.header["layers"] == ["l1"]
    assert capfd.readouterr().out.count("one line") == 1


def test_a_batch_that_is_looked_at_or_closed_over_is_data_all_the_same(tmp_path: Path) -> None:
    def looks(p: Tree, batch: Tree) -> jax.Array:
        sign = -1.0 if bool((np.asarray(batch["x"]) > 9).any()) else 1.0
        return sign * plain_loss(p, **batch)

    batch = {"x": jnp.asarray(X_UBD[0]), "y": jnp.asarray(Y_UB[0])}
    trace = heard(tmp_path / "looks", looks, plain_parameters(), batch)
    assert trace.header["layers"] == KINDS["plain"].layers
    assert trace.header["inputs"]["z_first"] == "batch/x"
    closes = partial(lambda p, x: plain_loss(p, x, batch["y"]), x=batch["x"])
    trace = heard(tmp_path / "closes", lambda p: closes(p), plain_parameters())
    assert outputs(trace) == KINDS["plain"].layers


def test_micro_batches_are_joined_and_leave_the_gradients_to_the_loop(tmp_path: Path) -> None:
    parameters = plain_parameters()
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorder.start(parameters)
        gradient_of = recorder.value_and_grad(plain_loss)
        losses = []
        for rows in (slice(0, 4), slice(4, None)):
            loss, _ = gradient_of(parameters, X_UBD[0, rows], Y_UB[0, rows])
            losses.append(loss)
        recorder.update(lr=0.1)
    trace = Trace.load(tmp_path / "trace")
    np.testing.assert_array_equal(trace.arrays["detail/0/batch/x"], X_UBD[0])
    assert forward(trace, 0, "a_last").shape == (B, K)
    assert trace.series("loss")[0] == pytest.approx(np.mean(losses), rel=1e-6)
    assert not any("gradients" in name for name in trace.arrays)


def test_what_the_loop_gives_itself_counts(tmp_path: Path) -> None:
    parameters = plain_parameters()
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorder.start(parameters)
        _, gradients = recorder.value_and_grad(plain_loss)(parameters, X_UBD[0], Y_UB[0])
        doubled = jax.tree.map(lambda leaf: 2 * leaf, gradients)
        own = {"mine": X_UBD[0]}
        recorder.update(loss=7.0, gradients=doubled, forward=own, batch={"own": Y_UB[0]})
    trace = Trace.load(tmp_path / "trace")
    assert trace.series("loss")[0] == 7
    assert trace.header["layers"] == ["mine"]
    assert [key for key in trace.arrays if "batch" in key] == ["detail/0/batch/own"]
    recorded = trace.arrays["detail/0/gradients/norm.b"]
    np.testing.assert_array_equal(recorded, doubled["norm"]["b"])


def test_only_updates_whose_tensors_are_recorded_are_heard(tmp_path: Path) -> None:
    evaluations = []

    def loss_of(parameters: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
        evaluations.append(x)
        return plain_loss(parameters, x, y)

    kind = Kind(plain_parameters, loss_of, [])
    with lockstep.Recorder(tmp_path / "trace", backend="jax", every=2) as recorder:
        train(kind, recorder)
    assert len(evaluations) == UPDATES + 2
    trace = Trace.load(tmp_path / "trace")
    assert len(trace.series("grad_norm")) == UPDATES
    with lockstep.Recorder(tmp_path / "jit", backend="jax", every=2) as recorder:
        train(KINDS["plain"], recorder, compiled=True)
    trace = Trace.load(tmp_path / "jit")
    assert outputs(trace) == KINDS["plain"].layers
    assert "updates/grad_norm" not in trace.arrays
    assert "detail/2/gradients/norm.b" in trace.arrays


# --- operations


def test_operations_stand_with_the_line_that_asked_for_them(tmp_path: Path) -> None:
    trace = heard(
        tmp_path / "trace", plain_loss, plain_parameters(), X_UBD[0], Y_UB[0], operations=0
    )
    entries = trace.header["operations"]["0"]
    products = [entry for entry in entries if entry["op"] == "dot_general"]
    assert [entry["layer"] for entry in products] == ["z_first", "a_last"]
    lines = Path(__file__).read_text().splitlines()
    for entry, text in zip(products, ("x_BD @ parameters", "h_BH @ parameters")):
        file, _, rest = entry["line"].partition(":")
        number, _, function = rest.partition(" in ")
        assert (file, function) == (Path(__file__).name, "plain_logits")
        assert text in lines[int(number) - 1]
    gelu = [entry for entry in entries if entry["layer"] == "gelu"]
    assert "tanh" in {entry["op"] for entry in gelu}
    norms = trace.arrays["operations/0"]
    assert norms.shape == (len(entries), 4)
    last = [place for place, entry in enumerate(entries) if entry["layer"] == "a_last"][-1]
    logits = forward(trace, 0, "a_last").astype(np.float64)
    assert norms[last, 0] == pytest.approx(np.linalg.norm(logits), rel=1e-12)


# --- what cannot be heard


UNHEARD = r"update 0: value_and_grad\(%s\) runs within jit, and cannot be called again: %s; give "
UNHEARD += r"update the batch, or wrap the compiled step: step = recorder.listen\(step\)"


def unheard_loss(parameters: Tree, key: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    return plain_loss(parameters, x + jax.random.normal(key, x.shape), y)


@pytest.mark.parametrize(
    ("loss_of", "arguments", "batch", "reason"),
    [
        (plain_loss, (X_UBD[0], Y_UB[0]), None, "the values of x are not known"),
        (plain_loss, (X_UBD[0], Y_UB[0]), {"x": X_UBD[0]}, "the values of y are not known"),
        (plain_loss, (X_UBD[0], Y_UB[0]), {"x": X_UBD[0, :3], "y": Y_UB[0]}, "the values of x .*"),
        (
            unheard_loss,
            (jax.random.key(0), X_UBD[0], Y_UB[0]),
            {"x": X_UBD[0], "y": Y_UB[0]},
            "the values of argument 1 are not known",
        ),
    ],
    ids=["no batch", "half a batch", "another batch", "a key"],
)
def test_a_compiled_step_whose_values_are_not_known_is_refused(
    loss_of: Any, arguments: Any, batch: Tree, reason: str, tmp_path: Path
) -> None:
    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    gradient_of = jax.jit(recorder.value_and_grad(loss_of))
    gradient_of(recorder.start(plain_parameters()), *arguments)
    with pytest.raises(InputError, match=UNHEARD % (loss_of.__name__, reason)):
        recorder.update(loss=1.0, batch=batch)


def test_a_loss_that_closes_over_values_of_the_step_is_refused(tmp_path: Path) -> None:
    @jax.jit
    def step(parameters: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
        return recorder.value_and_grad(lambda p: plain_loss(p, x, y))(parameters)[0]

    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    loss = step(recorder.start(plain_parameters()), X_UBD[0], Y_UB[0])
    with pytest.raises(InputError, match=UNHEARD % ("<lambda>", "UnexpectedTracerError: .*")):
        recorder.update(loss=loss, batch={"x": X_UBD[0], "y": Y_UB[0]})


def test_a_step_without_a_loss_of_the_recorder_is_refused(tmp_path: Path) -> None:
    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    step = recorder.listen(jax.jit(jax.value_and_grad(plain_loss)))
    loss, _ = step(recorder.start(plain_parameters()), X_UBD[0], Y_UB[0])
    expected = "update 0: the step under listen calls no value_and_grad of this recorder: write "
    with pytest.raises(InputError, match=expected):
        recorder.update(loss=loss)


def test_a_step_over_devices_is_refused(tmp_path: Path) -> None:
    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    parameters = recorder.start(plain_parameters())
    over_rows = jax.vmap(recorder.value_and_grad(plain_loss), in_axes=(None, 0, 0))
    losses, _ = recorder.listen(jax.jit(over_rows))(parameters, X_UBD, Y_UB)
    with pytest.raises(InputError, match=r"update 0: .* within pmap, shard_map or vmap, where no "):
        recorder.update(loss=losses.mean())


def test_micro_batches_in_a_compiled_scan_are_joined(tmp_path: Path) -> None:
    @jax.jit
    def step(parameters: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
        def add(total: jax.Array, rows: Any) -> tuple[jax.Array, None]:
            return total + gradient_of(parameters, *rows)[0], None

        halves = x.reshape(2, B // 2, D), y.reshape(2, B // 2)
        return jax.lax.scan(add, jnp.zeros(()), halves)[0] / 2

    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    gradient_of = recorder.value_and_grad(plain_loss)
    step = recorder.listen(step)
    loss = step(recorder.start(plain_parameters()), X_UBD[0], Y_UB[0])
    recorder.update()
    trace = recorder.finish()
    assert outputs(trace) == KINDS["plain"].layers
    np.testing.assert_array_equal(trace.arrays["detail/0/batch/x"], X_UBD[0])
    assert trace.series("loss")[0] == pytest.approx(float(loss), rel=1e-6)


def test_what_is_no_function_is_refused(tmp_path: Path) -> None:
    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    with pytest.raises(InputError, match="value_and_grad: needs a function, got float"):
        recorder.value_and_grad(1.0)
    with pytest.raises(InputError, match="listen: needs a function, got int"):
        recorder.listen(1)


def test_a_loss_that_cannot_be_traced_twice_trains_on_with_a_warning(tmp_path: Path) -> None:
    calls = []

    def loss_of(parameters: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
        calls.append(x)
        if len(calls) == 1:
            raise ValueError("only once\nand no more")
        return plain_loss(parameters, x, y)

    recorder = lockstep.Recorder(tmp_path / "trace", backend="jax")
    parameters = recorder.start(plain_parameters())
    expected = "update 0: outputs of layers are not recorded: ValueError: only once$"
    with pytest.warns(RecorderWarning, match=expected):
        results = recorder.value_and_grad(loss_of)(parameters, X_UBD[0], Y_UB[0])
    assert_same_bits(results, jax.value_and_grad(plain_loss)(parameters, X_UBD[0], Y_UB[0]))
    recorder.update()
    assert "updates/loss" in recorder.finish().arrays


def test_what_is_heard_at_some_updates_only_is_left_out(tmp_path: Path) -> None:
    parameters = plain_parameters()
    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorder.start(parameters)
        gradient_of = recorder.value_and_grad(plain_loss)
        for calls in (1, 2, 0, 1):
            for _ in range(calls):
                gradient_of(parameters, X_UBD[0], Y_UB[0])
            recorder.update(lr=0.1)
    trace = Trace.load(tmp_path / "trace")
    assert [name for name in trace.arrays if name.startswith("updates/")] == ["updates/lr"]
    assert forward(trace, 1, "a_last").shape == (2 * B, K)


def test_a_step_that_does_not_run_outside_jit_trains_on_with_a_warning(tmp_path: Path) -> None:
    def step(parameters: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
        if not isinstance(x, jax.core.Tracer):
            raise ValueError("only in jit")
        return gradient_of(parameters, x, y)[0]

    with lockstep.Recorder(tmp_path / "trace", backend="jax") as recorder:
        recorder.start(plain_parameters())
        gradient_of = recorder.value_and_grad(plain_loss)
        step = recorder.listen(jax.jit(step))
        expected = "update 0: listen: the step does not run outside jit: ValueError: only in jit"
        with pytest.warns(RecorderWarning, match=expected):
            loss = step(plain_parameters(), X_UBD[0], Y_UB[0])
        recorder.update(loss=loss)
    assert Trace.load(tmp_path / "trace").header["layers"] == []


# --- what it is for


class Port(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l1 = torch.nn.Linear(D, H)
        self.norm = torch.nn.LayerNorm(H)
        self.l2 = torch.nn.Linear(H, K)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return self.l2(torch.tanh(self.norm(0.01 * self.l1(x_BD))))


def record_torch(path: Path) -> dict[str, np.ndarray]:
    """Train in PyTorch, and return the initial parameters."""
    torch.manual_seed(0)
    model = Port()
    start = {name: value.detach().numpy().copy() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with lockstep.Recorder(path, backend="torch") as recorder:
        recorder.watch(model, optimizer)
        for x, y in zip(torch.from_numpy(X_UBD), torch.from_numpy(Y_UB)):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            recorder.update(loss=loss, batch={"x": x, "y": y})
    return start


def record_port(path: Path, start: dict[str, np.ndarray], eps: float) -> None:
    """Train the same in JAX."""
    parameters = {name: {} for name in ("l1", "norm", "l2")}
    for name, array in start.items():
        layer, _, kind = name.partition(".")
        parameters[layer][kind] = jnp.asarray(array.T)

    def loss_of(p: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
        h = 0.01 * (x @ p["l1"]["weight"] + p["l1"]["bias"])
        mean = h.mean(-1, keepdims=True)
        h = (h - mean) / jnp.sqrt(((h - mean) ** 2).mean(-1, keepdims=True) + eps)
        h = jnp.tanh(h * p["norm"]["weight"] + p["norm"]["bias"])
        return cross_entropy(h @ p["l2"]["weight"] + p["l2"]["bias"], y).mean()

    optimizer = optax.sgd(0.1, momentum=0.9)
    state = optimizer.init(parameters)
    with lockstep.Recorder(path, backend="jax") as recorder:
        recorder.watch(recorder.start(parameters), optimizer)
        for x, y in zip(X_UBD, Y_UB):
            _, gradients = recorder.value_and_grad(loss_of)(parameters, x, y)
            changes, state = optimizer.update(gradients, state, parameters)
            parameters = optax.apply_updates(parameters, changes)
            recorder.update(parameters=parameters, moments=state)


def test_a_port_is_right_and_a_fault_in_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = record_torch(tmp_path / "torch")
    layout = 'layout = "transpose"'
    (tmp_path / "names.toml").write_text(
        f"""[names]
"l1.weight" = {{name = "l1.weight", {layout}}}
"l2.weight" = {{name = "l2.weight", {layout}}}
"""
    )
    for name, eps in (("right", 1e-5), ("faulty", 1e-3)):
        record_port(tmp_path / name, start, eps)
        sides = [str(tmp_path / "torch"), str(tmp_path / name)]
        with pytest.raises(SystemExit) as ending:
            main(["diagnose", *sides, "--names", str(tmp_path / "names.toml")])
        text = capsys.readouterr().out
        assert ending.value.code == (0 if name == "right" else 1), text
    assert "update 0" in text
    assert "norm[" in text
    assert "eps" in text


def test_a_fault_is_placed_at_the_layer_that_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty_loss(parameters: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
        faulty = parameters | {"norm": jax.tree.map(lambda leaf: 1.01 * leaf, parameters["norm"])}
        return plain_loss(faulty, x, y)

    record(tmp_path / "a", KINDS["plain"], compiled=True)
    record(tmp_path / "b", Kind(plain_parameters, faulty_loss, []), compiled=True)
    with pytest.raises(SystemExit) as ending:
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert ending.value.code == 1
    assert "update 0, forward, norm" in capsys.readouterr().out
