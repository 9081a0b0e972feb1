"""The recipe's optimizer with its learning-rate schedule; every hyperparameter passed
explicitly.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import jax
import optax

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
    optimizer: Optimizer, schedules: Mapping[int, Callable[[jax.Array], jax.Array]], parameters: Any
) -> tuple[optax.GradientTransformation, optax.OptState]:
    """The optimizer, which carries its schedules, and its state before the first update.

    Args:
        optimizer: its hyperparameters.
        schedules: 0 -> the schedule; with multipliers also layer -> the layer's.
        parameters: a tree of layer -> kind -> array.
    """

    def decayed(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: decays(optimizer, _name(path)), tree
        )

    mask = None if optimizer.decay_on == "all" else decayed

    def make(schedule: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
        transformation = MAKERS[optimizer.name](optimizer, Groups(schedule, mask))
        if optimizer.decay_rate and not optimizer.spec.decoupled:
            l2 = optax.add_decayed_weights(optimizer.decay_rate, mask=mask)
            transformation = optax.chain(l2, transformation)
        return transformation

    if optimizer.multipliers:
        labels = jax.tree_util.tree_map_with_path(
            lambda path, _: rate_of(optimizer, _name(path)), parameters
        )
        made = optax.partition(
            {layer: make(schedules[layer]) for layer in schedules if layer}, labels
        )
    else:
        made = make(schedules[0])
    return made, made.init(parameters)


def _name(path: tuple[Any, ...]) -> str:
    # a leaf of an NNX state is the value of a Param
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
