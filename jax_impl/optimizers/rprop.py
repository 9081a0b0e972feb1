"""Rprop: the library's where it takes each step in time, else by its rule."""

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments, from_rule
from jax_impl.optimizers.parts import start_moments
from lockstep.recipe.optimizers.rprop import Rprop

__all__ = ["make"]


def make(optimizer: Rprop, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: Rprop,
    lr: jax.Array,
    update: jax.Array,
    parameter: jax.Array,
    gradient: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments]:
    """`torch.optim.Rprop` (2.13) by hand: `optax.rprop` (0.2.8) takes each step one update late."""
    agreement = gradient * moments["previous"]
    factor = jnp.where(agreement < 0, optimizer.shrink, 1.0)
    factor = jnp.where(agreement > 0, optimizer.grow, factor)
    size = jnp.where(update == 0, lr, moments["step_size"]) * factor
    size = jnp.clip(size, optimizer.step_min, optimizer.step_max)
    # a gradient that turned counts as 0, now and next
    gradient = jnp.where(agreement < 0, 0.0, gradient)
    return jnp.sign(gradient) * size, {"previous": gradient, "step_size": size}
