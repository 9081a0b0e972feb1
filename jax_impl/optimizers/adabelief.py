"""AdaBelief: the library's."""

import optax

from jax_impl.optimizers.from_rule import Groups
from lockstep.recipe.optimizers.adabelief import AdaBelief

__all__ = ["make"]


def make(optimizer: AdaBelief, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return optax.adabelief(
        groups.schedule,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        eps=optimizer.eps,
        eps_root=optimizer.eps_root,
        nesterov=optimizer.nesterov,
    )
