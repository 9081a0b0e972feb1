"""An optimizer from its rule, where the framework has none with the recipe's knobs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lockstep.recipe import Optimizer

__all__ = ["Groups", "Moments", "Rule", "RuleState", "Start", "from_rule"]


class Groups(NamedTuple):
    """What is trained alike: `schedule` has the learning rate of each update, `mask` says of a tree
    what decays in it (None: all)."""

    schedule: Callable[[jax.Array], jax.Array]
    mask: Callable[[Any], Any] | None


Moments = dict[str, jax.Array]
"""Slot, by its canonical name -> what is remembered of one parameter."""
Start = Callable[[Any, jax.Array], Moments]
"""(optimizer, parameter) -> its moments before the first update."""
Rule = Callable[
    [Any, jax.Array, jax.Array, jax.Array, jax.Array, Moments], tuple[jax.Array, Moments]
]
"""(optimizer, lr, update, parameter, gradient, moments) -> what to subtract from the parameter, and
its new moments.

`update` is counted from 0. L2 decay is in the gradient. A decoupled decay is the rule's own:
`optimizer.weight_decay`, which is 0 for a parameter that does not decay."""


class RuleState(NamedTuple):
    """Updates done, and the parameters' tree with a dict of moments in place of each."""

    count: jax.Array  # type: ignore[assignment]  # as in the states of Optax
    moments: Any


def from_rule(
    optimizer: Optimizer, groups: Groups, start: Start, rule: Rule
) -> optax.GradientTransformation:
    """The optimizer that does what `rule` says to each parameter."""
    undecayed = optimizer.with_knobs(weight_decay=0.0) if optimizer.decay_rate else optimizer

    def init(parameters: Any) -> RuleState:
        moments = jax.tree.map(lambda parameter: start(optimizer, parameter), parameters)
        return RuleState(jnp.zeros([], jnp.int32), moments)

    def update(gradients: Any, state: RuleState, parameters: Any = None) -> tuple[Any, RuleState]:
        leaves: list[jax.Array]
        tree: Any
        leaves, tree = jax.tree.flatten(gradients)
        decaying = jax.tree.leaves(groups.mask(gradients)) if groups.mask else [True] * len(leaves)
        befores, moments = tree.flatten_up_to(parameters), tree.flatten_up_to(state.moments)
        lr = groups.schedule(state.count)
        steps, afters = [], []
        for gradient, parameter, before, decays in zip(leaves, befores, moments, decaying):
            count, seen = state.count.astype(gradient.dtype), optimizer if decays else undecayed
            step, after = rule(seen, lr, count, parameter, gradient, before)
            steps.append(-step)
            afters.append(after)
        return tree.unflatten(steps), RuleState(
            optax.safe_increment(state.count), tree.unflatten(afters)
        )

    return optax.GradientTransformation(init, update)
