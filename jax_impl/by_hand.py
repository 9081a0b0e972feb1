"""Optimizers by their rule, where no class of the framework can express the recipe's knobs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import DECOUPLED

__all__ = ["by_hand"]


def by_hand(start: Callable[..., Any], rule: Callable[..., Any]) -> Callable[..., Any]:
    """A maker of an optimizer, from what it does to one parameter.

    Args:
        start: (optimizer, parameter) -> its moments before the first update, by their canonical names.
        rule: (optimizer, lr, update, parameter, gradient, moments) -> what to subtract from the parameter, and its
            new moments; `update` is counted from 0. Weight decay is none of its business.
    """

    def make(
        optimizer: Optimizer, schedule: Callable[[jax.Array], jax.Array], mask: Any
    ) -> optax.GradientTransformation:
        parts = [_by_hand(optimizer, schedule, start, rule)]
        if optimizer.weight_decay and optimizer.name in DECOUPLED:
            parts.append(optax.add_decayed_weights(lambda count: schedule(count) * optimizer.weight_decay, mask=mask))
        # a schedule of -1: its state counts the updates, as that of every chain does
        return optax.chain(*parts, optax.scale_by_schedule(lambda count: -1.0))

    return make


class _State(NamedTuple):
    """Updates done, and the parameters' tree with a dict of moments in place of each."""

    updates: jax.Array
    moments: Any


def _by_hand(
    optimizer: Optimizer,
    schedule: Callable[[jax.Array], jax.Array],
    start: Callable[..., Any],
    rule: Callable[..., Any],
) -> optax.GradientTransformation:
    def init(parameters: Any) -> _State:
        moments = jax.tree.map(lambda parameter: start(optimizer, parameter), parameters)
        return _State(jnp.zeros([], jnp.int32), moments)

    def update(gradients: Any, state: _State, parameters: Any = None) -> tuple[Any, _State]:
        leaves: list[jax.Array]
        tree: Any
        leaves, tree = jax.tree.flatten(gradients)
        lr = schedule(state.updates)
        done = [
            rule(optimizer, lr, state.updates.astype(gradient.dtype), parameter, gradient, moments)
            for gradient, parameter, moments in zip(
                leaves, tree.flatten_up_to(parameters), tree.flatten_up_to(state.moments)
            )
        ]
        steps, moments = (tree.unflatten(part) for part in zip(*done))
        return steps, _State(optax.safe_increment(state.updates), moments)

    return optax.GradientTransformation(init, update)
