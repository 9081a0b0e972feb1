"""LAMB: the library's where there is one, else by its rule."""

import optax

from jax_impl.optimizers.from_rule import Groups
from lockstep.recipe.optimizers.lamb import Lamb

__all__ = ["make"]


def make(optimizer: Lamb, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return optax.lamb(
        groups.schedule,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        eps=optimizer.eps,
        eps_root=0.0,
        weight_decay=optimizer.weight_decay,
        mask=groups.mask,
    )
