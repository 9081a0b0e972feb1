"""Parts that the rules of several optimizers share."""

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
    "root",
    "root_mean_square",
    "start_moments",
    "step_along",
    "stepped",
    "tabulated",
    "two_moments",
]

EARLY = 4096
"""Updates whose powers come from a table."""


def start_moments(optimizer: Any, parameter: jax.Array) -> Moments:
    """Zeros for every slot of the optimizer, which gives shapes in the layout (in, out)."""
    slots = optimizer.slots(parameter.shape)
    return {slot: jnp.zeros(shape, parameter.dtype) for slot, shape in slots.items()}


def two_moments(beta1: float, beta2: float, gradient: jax.Array, moments: Moments) -> Moments:
    """Moving averages of the gradient and of its square."""
    first = optax.tree.update_moment(gradient, moments["first"], beta1, 1)
    second = optax.tree.update_moment(gradient, moments["second"], beta2, 2)
    return {"first": first, "second": second}


def bias(beta: float, update: jax.Array) -> jax.Array:
    """1 - beta^(update + 1), to the last bits: the bias of a moving average that began at 0.

    In float32 the plain form is off by 1e-5 of itself at beta 0.999 and update 0.
    """
    t = update + 1
    later = -jnp.expm1(t * math.log(beta)) if beta else jnp.ones(())
    return tabulated(lambda early: 1 - beta**early, t, later)


def tabulated(exact: Callable[[int], float], t: jax.Array, later: jax.Array) -> jax.Array:
    """`exact` at update t, counted from 1, from a table in float64; past its end `later`.

    At a later update fewer digits cancel.
    """
    table_T = jnp.asarray([exact(early) for early in range(1, EARLY + 1)])
    return jnp.where(t <= EARLY, table_T.at[t.astype(jnp.int32) - 1].get(mode="clip"), later)


def root(eps: float, in_root: bool, second: jax.Array) -> jax.Array:
    """The root of a second moment, with eps inside the root or added to it."""
    return jnp.sqrt(second + eps) if in_root else jnp.sqrt(second) + eps


def root_mean_square(tensor: jax.Array) -> jax.Array:
    """The root mean square of all elements."""
    return jnp.sqrt((tensor**2).mean())


def step_along(
    optimizer: Adam | AdamW | NAdam | NAdamW,
    lr: jax.Array,
    parameter: jax.Array,
    direction: jax.Array,
) -> jax.Array:
    """lr direction, and a decoupled decay."""
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
    """parameter <- parameter - lr direction, with a decoupled decay."""
    links = [direction, optax.scale_by_learning_rate(groups.schedule)]
    if isinstance(optimizer, AdamW | NAdamW) and optimizer.weight_decay:
        if optimizer.decay_form == "step":
            links.insert(1, optax.add_decayed_weights(optimizer.weight_decay, mask=groups.mask))
        else:
            factor = _decay_by_factor(optimizer.weight_decay, groups)
            links.append(factor if groups.mask is None else optax.masked(factor, groups.mask))
    return optax.chain(*links)


class _FactorState(NamedTuple):
    """The state of a decay by a factor."""

    updates: jax.Array
    """The number of updates so far."""


def _decay_by_factor(weight_decay: float, groups: Groups) -> optax.GradientTransformation:
    """Add p factor - p to the step of each parameter p; factor = 1 - lr weight_decay, rounded."""

    def init(parameters: optax.Params) -> _FactorState:
        return _FactorState(jnp.zeros((), jnp.int32))

    def update(
        steps: optax.Updates, state: _FactorState, parameters: optax.Params
    ) -> tuple[optax.Updates, _FactorState]:
        factor = 1 - groups.schedule(state.updates) * weight_decay
        decayed = jax.tree.map(lambda step, p: step + (p * factor - p), steps, parameters)
        return decayed, _FactorState(state.updates + 1)

    return optax.GradientTransformation(init, update)
