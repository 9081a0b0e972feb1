"""Signum: the library's."""

import optax

from jax_impl.optimizers.from_rule import Groups
from lockstep.recipe.optimizers.signum import Signum

__all__ = ["make"]


def make(optimizer: Signum, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return optax.signum(groups.schedule, beta=optimizer.momentum, accumulator_dtype=None)
