"""The draws of the framework itself: a member's initial parameters, order and dropout masks."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import OwnDraws, Parameters, PreparedData, layer_sizes
from lockstep.recipe import Recipe

__all__ = ["INITIALISERS", "draw_member"]

INITIALISERS: dict[str, Callable[..., Any]] = {
    "torch": jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    # the default of nnx.Linear
    "flax": jax.nn.initializers.lecun_normal(),
    "xavier_uniform": jax.nn.initializers.glorot_uniform(),
    "xavier_normal": jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    "kaiming_uniform": jax.nn.initializers.he_uniform(),
    "kaiming_normal": jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    "orthogonal": jax.nn.initializers.orthogonal(),
    "zeros": jax.nn.initializers.zeros,
}
"""`model.init` -> the framework's initialiser; the formulas: `lockstep.data_prep.initialise`."""


def draw_member(recipe: Recipe, data: PreparedData, seed: int) -> PreparedData:
    """The rows of `data` with initial parameters, order and masks drawn by the framework.

    Each of the three has its own stream of random numbers.
    """
    model = recipe.model
    parameters: Parameters = {}
    layers = tuple(layer_sizes(len(data.columns), model.hidden, data.outputs))
    key = jax.random.key(seed)
    draw_layers = _layers(model.init, layers)
    tensors = jax.device_get(draw_layers(jax.random.fold_in(key, 0)))
    for i, ((name, _, fan_out), (weight, bias)) in enumerate(zip(layers, tensors), start=1):
        parameters[f"{name}.weight"] = weight.astype(np.float64)
        if model.bias:
            parameters[f"{name}.bias"] = bias.astype(np.float64)
        if model.norm != "none" and i <= len(model.hidden):
            parameters[f"norm{i}.weight"] = np.ones(fan_out)
            parameters[f"norm{i}.bias"] = np.zeros(fan_out)
    orders_EN = np.asarray(_orders(jax.random.fold_in(key, 1), data.epochs, len(data.train_y_N)))

    def draw_masks(epoch: int) -> list[NDArray[np.bool_]]:
        keys = jax.random.split(jax.random.fold_in(key, 2 + epoch), len(model.hidden))
        sizes = [(data.batches_per_epoch, data.batch, units) for units in model.hidden]
        masks = []
        for key_of_layer, size in zip(keys, sizes):
            mask_TBH = jax.random.bernoulli(key_of_layer, 1 - model.dropout, size)
            masks.append(np.asarray(mask_TBH))
        return masks

    return OwnDraws.of(
        data,
        parameters=parameters,
        seed=seed,
        orders_EN=orders_EN.astype(np.int64),
        draw_masks=draw_masks,
    )


@cache
def _layers(init: str, layers: tuple[tuple[str, int, int], ...]) -> Any:
    """Key -> the weight (in, out) and bias of each layer; compiled once for all members."""

    def draw(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        tensors = []
        for i, (_, fan_in, fan_out) in enumerate(layers):
            for_weight, for_bias = jax.random.split(jax.random.fold_in(key, i))
            bound = fan_in**-0.5 if init == "torch" else 0.0
            bias = jax.random.uniform(for_bias, (fan_out,), jnp.float32, -bound, bound)
            weight = INITIALISERS[init](for_weight, (fan_in, fan_out), jnp.float32)
            tensors.append((weight, bias))
        return tensors

    return jax.jit(draw)


@partial(jax.jit, static_argnums=(1, 2))
def _orders(key: jax.Array, epochs: int, rows: int) -> jax.Array:
    keys = jax.random.split(key, epochs)
    return jax.vmap(lambda key_of_epoch: jax.random.permutation(key_of_epoch, rows))(keys)
