"""Adamax: the library's."""

import optax

from jax_impl.optimizers.from_rule import Groups
from lockstep.recipe.optimizers.adamax import Adamax

__all__ = ["make"]


def make(optimizer: Adamax, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    direction = optax.scale_by_adamax(b1=optimizer.beta1, b2=optimizer.beta2, eps=optimizer.eps)
    return optax.chain(direction, optax.scale_by_learning_rate(groups.schedule))
