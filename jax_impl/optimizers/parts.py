"""What the rules of several optimizers share."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments
from lockstep.recipe.optimizers.adam import Adam, AdamW
from lockstep.recipe.optimizers.nadam import NAdam, NAdamW

__all__ = [
    "bias",
    "root_mean_square",
    "start_moments",
    "step_along",
    "stepped",
    "tabulated",
    "two_moments",
]

Tree = Any

EARLY = 4096
"""Updates whose powers come from a table."""


def start_moments(optimizer: Any, parameter: jax.Array) -> Moments:
    """Zeros for every slot of the optimizer, whose shapes are those of the layout (in, out)."""
    slots = optimizer.slots(parameter.shape)
    return {slot: jnp.zeros(shape, parameter.dtype) for slot, shape in slots.items()}


def two_moments(beta1: float, beta2: float, gradient: jax.Array, moments: Moments) -> Moments:
    """Moving averages of the gradient and of its square."""
    first = optax.tree.update_moment(gradient, moments["first"], beta1, 1)
    second = optax.tree.update_moment(gradient, moments["second"], beta2, 2)
    return {"first": first, "second": second}


def bias(beta: float, update: jax.Array) -> jax.Array:
    """1 - beta^(update + 1), to the last bits: in float32 the plain form has lost 1e-5 of itself at
    beta 0.999 and update 0."""
    t = update + 1
    later = -jnp.expm1(t * math.log(beta)) if beta else jnp.ones(())
    return tabulated(lambda early: 1 - beta**early, t, later)


def tabulated(exact: Callable[[int], float], t: jax.Array, later: jax.Array) -> jax.Array:
    """`exact` at update t, counted from 1, from a table made in float64; past its end `later`,
    which cancels less.
    """
    table_T = jnp.asarray([exact(early) for early in range(1, EARLY + 1)])
    return jnp.where(t <= EARLY, table_T.at[t.astype(jnp.int32) - 1].get(mode="clip"), later)


def root_mean_square(tensor: jax.Array) -> jax.Array:
    """Of all elements."""
    return jnp.sqrt((tensor**2).mean())


def step_along(
    optimizer: Adam | AdamW | NAdam | NAdamW,
    lr: jax.Array,
    parameter: jax.Array,
    direction: jax.Array,
) -> jax.Array:
    """lr direction, and what a decoupled decay takes off."""
    if not (isinstance(optimizer, AdamW | NAdamW) and optimizer.weight_decay):
        return lr * direction
    if optimizer.decay_form == "step":
        return lr * (direction + optimizer.weight_decay * parameter)
    factor = 1 - lr * optimizer.weight_decay
    return lr * direction - (parameter * factor - parameter)


def stepped(
    optimizer: Adam | AdamW | NAdam | NAdamW,
    groups: Groups,
    direction: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """parameter <- parameter - lr direction, and decayed where the decay is decoupled."""
    links = [direction, optax.scale_by_learning_rate(groups.schedule)]
    if isinstance(optimizer, AdamW | NAdamW) and optimizer.weight_decay:
        if optimizer.decay_form == "step":
            links.insert(1, optax.add_decayed_weights(optimizer.weight_decay, mask=groups.mask))
        else:
            factor = _decay_by_factor(optimizer.weight_decay, groups)
            links.append(factor if groups.mask is None else optax.masked(factor, groups.mask))
    return optax.chain(*links)


class _FactorState(NamedTuple):
    """Of the decay by a factor: updates done."""

    updates: jax.Array


def _decay_by_factor(weight_decay: float, groups: Groups) -> optax.GradientTransformation:
    """Add to the steps what the factor 1 - lr weight_decay, rounded to the dtype, takes from the
    parameters.
    """

    def update(steps: Tree, state: _FactorState, parameters: Tree) -> tuple[Tree, _FactorState]:
        factor = 1 - groups.schedule(state.updates) * weight_decay
        return jax.tree.map(lambda s, p: s + (p * factor - p), steps, parameters), _FactorState(
            state.updates + 1
        )

    return optax.GradientTransformation(
        lambda parameters: _FactorState(jnp.zeros((), jnp.int32)), update
    )
