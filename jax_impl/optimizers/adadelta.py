"""Adadelta: the library's."""

import optax

from jax_impl.optimizers.from_rule import Groups
from lockstep.recipe.optimizers.adadelta import Adadelta

__all__ = ["make"]


def make(optimizer: Adadelta, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return optax.adadelta(
        groups.schedule,
        rho=optimizer.decay,
        eps=optimizer.eps,
        weight_decay=0.0,
        weight_decay_mask=None,
    )
