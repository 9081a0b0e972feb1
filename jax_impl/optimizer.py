"""The recipe's optimizer with its learning-rate schedule; every hyperparameter passed explicitly."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from jax_impl.adafactor import MAKERS as ADAFACTOR
from jax_impl.adam_like import MAKERS as ADAM_LIKE
from jax_impl.muon import MAKERS as MUON
from jax_impl.other_optimizers import MAKERS as OTHERS
from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import DECOUPLED, decays, rate_of

__all__ = ["MAKERS", "learning_rate", "make_optimizer"]

MAKERS: dict[str, Callable[..., Any]] = {**ADAM_LIKE, **OTHERS, **ADAFACTOR, **MUON}
"""Optimizer -> (its hyperparameters, schedule, mask of what decays) -> `optax.GradientTransformation`."""


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
        return jax.tree_util.tree_map_with_path(lambda path, _: decays(optimizer, _name(path)), tree)

    mask = None if optimizer.decay_on == "all" else decayed

    def make(schedule: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
        made: optax.GradientTransformation = MAKERS[optimizer.name](optimizer, schedule, mask)
        if optimizer.weight_decay and optimizer.name not in DECOUPLED:
            made = optax.chain(optax.add_decayed_weights(optimizer.weight_decay, mask=mask), made)
        return made

    if optimizer.multipliers:
        labels = jax.tree_util.tree_map_with_path(lambda path, _: rate_of(optimizer, _name(path)), parameters)
        made = optax.partition({layer: make(schedules[layer]) for layer in schedules if layer}, labels)
    else:
        made = make(schedules[0])
    return made, made.init(parameters)


def learning_rate(optimizer: optax.OptState, schedule: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The learning rate that the next update will use, before multipliers."""
    # every chain ends with the learning rate, and its state counts the updates
    kind = optax.ScaleByScheduleState
    *_, last = (
        leaf for leaf in jax.tree.leaves(optimizer, is_leaf=lambda x: isinstance(x, kind)) if isinstance(leaf, kind)
    )
    return schedule(last.count)


def _name(path: tuple[Any, ...]) -> str:
    # a leaf of an NNX state is the value of a Param
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
