"""What the framework draws by itself: initial parameters, order and dropout masks of a member."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import OwnDraws, PreparedData, layer_sizes
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
"""`model.init` -> the framework's own initialiser of that distribution; see
`lockstep.data_prep.initialise`.
"""


def draw_member(recipe: Recipe, data: PreparedData, seed: int) -> PreparedData:
    """The rows of `data` with initial parameters, order and masks that the framework draws; a
    stream of random
    numbers for each of them."""
    model, parameters = recipe.model, {}
    layers = tuple(layer_sizes(len(data.columns), model.hidden, data.outputs))
    key = jax.random.key(seed)
    drawn = jax.device_get(_layers(model.init, layers)(jax.random.fold_in(key, 0)))
    for i, ((name, _, fan_out), (weight, bias)) in enumerate(zip(layers, drawn), start=1):
        parameters[f"{name}.weight"] = weight.astype(np.float64)
        if model.bias:
            parameters[f"{name}.bias"] = bias.astype(np.float64)
        if model.norm != "none" and i <= len(model.hidden):
            parameters[f"norm{i}.weight"], parameters[f"norm{i}.bias"] = (
                np.ones(fan_out),
                np.zeros(fan_out),
            )
    orders_EN = np.asarray(_orders(jax.random.fold_in(key, 1), data.epochs, len(data.train_y_N)))

    def draw_masks(epoch: int) -> list[NDArray[np.bool_]]:
        keys = jax.random.split(jax.random.fold_in(key, 2 + epoch), len(model.hidden))
        sizes = [(data.batches_per_epoch, data.batch, units) for units in model.hidden]
        return [
            np.asarray(jax.random.bernoulli(k, 1 - model.dropout, size))
            for k, size in zip(keys, sizes)
        ]

    return OwnDraws.of(
        data,
        parameters=parameters,
        seed=seed,
        orders_EN=orders_EN.astype(np.int64),
        draw_masks=draw_masks,
    )


@cache
def _layers(init: str, layers: tuple[tuple[str, int, int], ...]) -> Any:
    """A key -> the weight (in, out) and bias of each layer; compiled, as it is called for every
    member.
    """

    def draw(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        found = []
        for i, (_, fan_in, fan_out) in enumerate(layers):
            for_weight, for_bias = jax.random.split(jax.random.fold_in(key, i))
            bound = fan_in**-0.5 if init == "torch" else 0.0
            bias = jax.random.uniform(for_bias, (fan_out,), jnp.float32, -bound, bound)
            found.append((INITIALISERS[init](for_weight, (fan_in, fan_out), jnp.float32), bias))
        return found

    return jax.jit(draw)


@partial(jax.jit, static_argnums=(1, 2))
def _orders(key: jax.Array, epochs: int, rows: int) -> jax.Array:
    return jax.vmap(lambda k: jax.random.permutation(k, rows))(jax.random.split(key, epochs))
