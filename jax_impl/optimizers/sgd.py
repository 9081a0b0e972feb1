"""SGD with momentum: the library's."""

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups
from lockstep.recipe.optimizers.sgd import Sgd

__all__ = ["make"]


def make(optimizer: Sgd, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    library = optax.sgd(
        groups.schedule,
        momentum=optimizer.momentum or None,
        nesterov=optimizer.nesterov,
        accumulator_dtype=None,
    )
    if not (optimizer.momentum and optimizer.dampening):
        return library

    def damping(update: jax.Array) -> jax.Array:
        return jnp.where(update == 0, 1.0, 1 - optimizer.dampening)

    return optax.chain(optax.scale_by_schedule(damping), library)
