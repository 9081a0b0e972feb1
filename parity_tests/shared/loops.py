"""One small training, written in the five ways of its users: PyTorch, plain JAX, NNX, Linen and
Equinox's manner.

All start from the same numbers. `fault` plants a bug in one of them.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

UPDATES, B, D, H, K = 6, 8, 3, 5, 2
RATE, DECAY, CLIP = 0.05, 0.1, 0.3
SETTINGS = {"batch": B, "optimizer": {"name": "adamw", "weight_decay": DECAY}}


class Start(NamedTuple):
    x_TBD: np.ndarray
    y_TB: np.ndarray
    w1_DH: np.ndarray
    b1_H: np.ndarray
    w2_HK: np.ndarray
    b2_K: np.ndarray


def start_of(seed: int = 0, dtype: Any = np.float32) -> Start:
    draw = np.random.Generator(np.random.PCG64(seed))
    x_TBD = draw.normal(size=(UPDATES, B, D)).astype(dtype)
    y_TB = draw.integers(0, K, (UPDATES, B))
    weights = [draw.normal(size=shape).astype(dtype) for shape in ((D, H), (H,), (H, K), (K,))]
    return Start(x_TBD, y_TB, *weights)


def rate_at(update: int, fault: str = "") -> float:
    return RATE / (1 + update) * (2 if fault == "rate" and update == 3 else 1)


def torch_loop(
    recorder: Any = None, start: Start | None = None, fault: str = "", watch: bool = False
) -> Any:
    start = start or start_of()
    dtype = torch.from_numpy(start.x_TBD).dtype
    model = torch.nn.Sequential()
    model.add_module("linear1", torch.nn.Linear(D, H, dtype=dtype))
    model.add_module("tanh1", torch.nn.Tanh())
    model.add_module("linear2", torch.nn.Linear(H, K, dtype=dtype))
    values = (start.w1_DH.T, start.b1_H, start.w2_HK.T, start.b2_K)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values):
            parameter.copy_(torch.from_numpy(value))
    decay = 1e-4 if fault == "decay" else DECAY
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=decay)
    if recorder:
        recorder.start(model)
        if watch:
            recorder.watch(model, optimizer)
    batches = zip(torch.from_numpy(start.x_TBD), torch.from_numpy(start.y_TB))
    reduction = "sum" if fault == "sum" else "mean"
    for update, (x_BD, y_B) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = rate_at(update, fault)
        h_BH = torch.tanh(model.linear1(x_BD)) if not watch else None
        logits_BK = model(x_BD) if watch else model.linear2(h_BH)
        loss = torch.nn.functional.cross_entropy(logits_BK, y_B, reduction=reduction)
        optimizer.zero_grad()
        loss.backward()
        if recorder and not watch:
            recorder.record(gradients=model)
        if fault != "clip":
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if recorder and watch:
            recorder.update(batch={"x": x_BD, "y": y_B}, loss=loss)
        elif recorder:
            recorder.update(
                batch={"x": x_BD, "y": y_B},
                forward={"tanh1": h_BH, "linear2": logits_BK},
                loss=loss,
                clipped=model,
                moments=optimizer,
                parameters=model,
            )
    return model


def clip(gradients: Any) -> Any:
    """Clip as `clip_grad_norm_` does, which adds 1e-6 to the norm."""
    factor = jnp.minimum(CLIP / (optax.tree.norm(gradients) + 1e-6), 1)
    return jax.tree.map(lambda gradient: gradient * factor, gradients)


def jax_loop(
    parameters: Any,
    logits_of: Any,
    recorder: Any = None,
    start: Start | None = None,
    fault: str = "",
) -> Any:
    """The loop of everything that is a tree: plain, Linen's and Equinox's. `logits_of` gives tanh1
    and the logits.
    """
    start = start or start_of()
    decay = 1e-4 if fault == "decay" else DECAY  # as Optax has it, where one says nothing
    optimizer = optax.inject_hyperparams(optax.adamw)(RATE, weight_decay=decay)
    state = optimizer.init(parameters)

    def loss_of(parameters: Any, x_BD: Any, y_B: Any) -> Any:
        h_BH, logits_BK = logits_of(parameters, x_BD)
        losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, y_B)
        return losses_B.sum() if fault == "sum" else losses_B.mean(), (h_BH, logits_BK)

    gradient_of = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    if recorder:
        parameters = recorder.start(parameters)
    for update in range(UPDATES):
        x_BD, y_B = start.x_TBD[update], start.y_TB[update]
        (loss, (h_BH, logits_BK)), gradients = gradient_of(parameters, x_BD, y_B)
        clipped = gradients if fault == "clip" else clip(gradients)
        rate = rate_at(update, fault)
        state.hyperparams["learning_rate"] = rate
        changes, state = optimizer.update(clipped, state, parameters)
        parameters = optax.apply_updates(parameters, changes)
        if recorder:
            recorder.update(
                batch={"x": x_BD, "y": y_B},
                forward={"tanh1": h_BH, "linear2": logits_BK},
                loss=loss,
                gradients=gradients,
                clipped=clipped,
                lr=rate,
                moments=state,
                parameters=parameters,
            )
    return parameters


def plain_parameters(start: Start) -> dict[str, Any]:
    return {
        "linear1": {"weight": start.w1_DH, "bias": start.b1_H},
        "linear2": {"weight": start.w2_HK, "bias": start.b2_K},
    }


def plain_logits(parameters: Any, x_BD: Any) -> tuple[Any, Any]:
    h_BH = jnp.tanh(x_BD @ parameters["linear1"]["weight"] + parameters["linear1"]["bias"])
    return h_BH, h_BH @ parameters["linear2"]["weight"] + parameters["linear2"]["bias"]


def plain_loop(recorder: Any = None, start: Start | None = None, fault: str = "") -> Any:
    start = start or start_of()
    parameters = jax.tree.map(jnp.asarray, plain_parameters(start))
    return jax_loop(parameters, plain_logits, recorder, start, fault)


class Dense(flax.linen.Module):
    """Linen, which names its layers itself."""

    @flax.linen.compact
    def __call__(self, x_BD: Any) -> Any:
        h_BH = jnp.tanh(flax.linen.Dense(H)(x_BD))
        return h_BH, flax.linen.Dense(K)(h_BH)


def linen_loop(recorder: Any = None, start: Start | None = None, fault: str = "") -> Any:
    start = start or start_of()
    params = {}
    for i, layer in enumerate(plain_parameters(start).values()):
        kernel, bias = jnp.asarray(layer["weight"]), jnp.asarray(layer["bias"])
        params[f"Dense_{i}"] = {"kernel": kernel, "bias": bias}
    return jax_loop({"params": params}, Dense().apply, recorder, start, fault)


@jax.tree_util.register_dataclass
@dataclass
class Affine:
    """As `equinox.nn.Linear`: a dataclass that is a tree, weights (out, in)."""

    weight: Any
    bias: Any

    def __call__(self, x_BD: Any) -> Any:
        return x_BD @ self.weight.T + self.bias


@jax.tree_util.register_dataclass
@dataclass
class Net:
    layers: list[Affine]

    def __call__(self, x_BD: Any) -> Any:
        h_BH = jnp.tanh(self.layers[0](x_BD))
        return h_BH, self.layers[1](h_BH)


def equinox_loop(recorder: Any = None, start: Start | None = None, fault: str = "") -> Any:
    start = start or start_of()
    layers = plain_parameters(start).values()
    net = Net(
        [Affine(jnp.asarray(layer["weight"].T), jnp.asarray(layer["bias"])) for layer in layers]
    )
    return jax_loop(net, lambda net, x_BD: net(x_BD), recorder, start, fault)


class Modules(nnx.Module):
    def __init__(self, start: Start) -> None:
        layers = plain_parameters(start)
        for name, layer in layers.items():
            linear = nnx.Linear(*layer["weight"].shape, rngs=nnx.Rngs(0))
            linear.kernel[...] = jnp.asarray(layer["weight"])
            linear.bias[...] = jnp.asarray(layer["bias"])
            setattr(self, name, linear)

    def __call__(self, x_BD: Any) -> Any:
        h_BH = jnp.tanh(self.linear1(x_BD))
        return h_BH, self.linear2(h_BH)


def nnx_loop(recorder: Any = None, start: Start | None = None, fault: str = "") -> Any:
    start = start or start_of()
    model = Modules(start)
    transformation = optax.inject_hyperparams(optax.adamw)(RATE, weight_decay=DECAY)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)

    @nnx.jit
    def gradient_of(model: Modules, x_BD: Any, y_B: Any) -> Any:
        def loss_of(model: Modules) -> Any:
            h_BH, logits_BK = model(x_BD)
            losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, y_B)
            return losses_B.mean(), (h_BH, logits_BK)

        return nnx.value_and_grad(loss_of, has_aux=True)(model)

    if recorder:
        recorder.start(model)
    for update in range(UPDATES):
        x_BD, y_B = start.x_TBD[update], start.y_TB[update]
        (loss, (h_BH, logits_BK)), gradients = gradient_of(model, x_BD, y_B)
        clipped = clip(gradients)
        rate = rate_at(update, fault)
        optimizer.opt_state.hyperparams["learning_rate"][...] = jnp.asarray(rate)
        optimizer.update(model, clipped)
        if recorder:
            recorder.update(
                batch={"x": x_BD, "y": y_B},
                forward={"tanh1": h_BH, "linear2": logits_BK},
                loss=loss,
                gradients=gradients,
                clipped=clipped,
                lr=rate,
                moments=optimizer,
                parameters=model,
            )
    return model


LOOPS = {
    "torch": torch_loop,
    "plain": plain_loop,
    "linen": linen_loop,
    "equinox": equinox_loop,
    "nnx": nnx_loop,
}
