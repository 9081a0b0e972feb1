"""The recipe's optimizer with its learning-rate schedule; all hyperparameters are explicit."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import jax
import optax
from jax import Array

from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import decays, rate_of

from .optimizers.from_rule import Groups

__all__ = ["MAKERS", "make_optimizer"]

MAKERS: dict[str, Callable[[Any, Groups], optax.GradientTransformation]] = {
    name: import_module(f"jax_impl.optimizers.{kind.file_name()}").make
    for name, kind in Optimizer.variants.items()
}
"""Optimizer -> (its hyperparameters, groups of parameters) -> the framework's optimizer."""


def make_optimizer(
    optimizer: Optimizer,
    schedules: Mapping[int, Callable[[Array], Array]],
    parameters: optax.Params,
) -> tuple[optax.GradientTransformation, optax.OptState]:
    """The optimizer, which carries its schedules, and its state before the first update.

    Args:
        optimizer: its hyperparameters.
        schedules: 0 -> the schedule; with multipliers also layer -> the layer's.
        parameters: a tree of layer -> kind -> array.
    """

    def decayed(tree: optax.Params) -> Any:
        return _map_names(lambda name: decays(optimizer, name), tree)

    mask = None if optimizer.decay_on == "all" else decayed

    def make(schedule: Callable[[Array], Array]) -> optax.GradientTransformation:
        transformation = MAKERS[optimizer.name](optimizer, Groups(schedule, mask))
        if optimizer.decay_rate and not optimizer.spec.decoupled:
            l2 = optax.add_decayed_weights(optimizer.decay_rate, mask=mask)
            transformation = optax.chain(l2, transformation)
        return transformation

    if optimizer.multipliers:
        layers = _map_names(lambda name: rate_of(optimizer, name), parameters)
        transformations = {layer: make(schedules[layer]) for layer in schedules if layer}
        optax_optimizer = optax.partition(transformations, layers)
    else:
        optax_optimizer = make(schedules[0])
    return optax_optimizer, optax_optimizer.init(parameters)


def _map_names(function: Callable[[str], Any], tree: optax.Params) -> Any:
    """The tree with function("linear1.weight") in place of the leaf of that name."""

    def value(path: tuple[Any, ...], _: Any) -> Any:
        # a leaf of an NNX state is the value of a Param
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        return function(name)

    return jax.tree_util.tree_map_with_path(value, tree)
