"""An optimizer from its rule, where the framework has none with the recipe's knobs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lockstep.recipe import Optimizer

__all__ = ["Groups", "Moments", "Rule", "RuleState", "Start", "from_rule"]


class Groups(NamedTuple):
    """The settings of all parameters that an optimizer trains."""

    schedule: Callable[[jax.Array], jax.Array]
    """Update, counted from 0 -> its learning rate."""
    mask: Callable[[optax.Params], Any] | None
    """Tree of parameters -> tree of whether each decays; None: all decay."""


Moments = dict[str, jax.Array]
"""Canonical name of a slot -> its tensor for one parameter."""
Start = Callable[[Any, jax.Array], Moments]
"""(optimizer, parameter) -> its moments before the first update."""
Rule = Callable[
    [Any, jax.Array, jax.Array, jax.Array, jax.Array, Moments], tuple[jax.Array, Moments]
]
"""(optimizer, lr, update, parameter, gradient, moments) -> step to subtract, and new moments.

`update` is counted from 0. The gradient has L2 decay in it already. The rule applies a decoupled
decay itself: `optimizer.weight_decay`, which is 0 for a parameter that does not decay."""


class RuleState(NamedTuple):
    """The state of an optimizer by its rule; `count`, named as in Optax, is its updates so far."""

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    moments: Any
    """The parameters' tree with a dictionary of moments in place of each."""


def from_rule(
    optimizer: Optimizer, groups: Groups, start: Start, rule: Rule
) -> optax.GradientTransformation:
    """The optimizer that applies `rule` to each parameter."""
    undecayed = optimizer.with_knobs(weight_decay=0.0) if optimizer.decay_rate else optimizer

    def init(parameters: optax.Params) -> RuleState:
        moments = jax.tree.map(lambda parameter: start(optimizer, parameter), parameters)
        return RuleState(jnp.zeros([], jnp.int32), moments)

    def update(
        gradients: optax.Updates, state: RuleState, parameters: optax.Params | None = None
    ) -> tuple[optax.Updates, RuleState]:
        leaves: list[jax.Array]
        tree: Any
        leaves, tree = jax.tree.flatten(gradients)
        decaying = jax.tree.leaves(groups.mask(gradients)) if groups.mask else [True] * len(leaves)
        parameter_leaves = tree.flatten_up_to(parameters)
        moment_leaves = tree.flatten_up_to(state.moments)
        lr = groups.schedule(state.count)
        steps = []
        new_moments = []
        for gradient, parameter, moments, decays in zip(
            leaves, parameter_leaves, moment_leaves, decaying
        ):
            count = state.count.astype(gradient.dtype)
            settings = optimizer if decays else undecayed
            step, after = rule(settings, lr, count, parameter, gradient, moments)
            steps.append(-step)
            new_moments.append(after)
        after_update = RuleState(optax.safe_increment(state.count), tree.unflatten(new_moments))
        return tree.unflatten(steps), after_update

    return optax.GradientTransformation(init, update)
