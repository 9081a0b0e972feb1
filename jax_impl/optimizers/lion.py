"""Lion: the library's where there is one, else by its rule."""

import optax

from jax_impl.optimizers.from_rule import Groups
from lockstep.recipe.optimizers.lion import Lion

__all__ = ["make"]


def make(optimizer: Lion, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return optax.lion(
        groups.schedule,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        mu_dtype=None,
        weight_decay=optimizer.weight_decay,
        mask=groups.mask,
    )
