"""Adagrad: the library's where it has the knobs, else by its rule."""

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments, from_rule
from lockstep.recipe.optimizers.adagrad import Adagrad

__all__ = ["make"]


def make(optimizer: Adagrad, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    if not optimizer.eps_in_root:
        return from_rule(optimizer, groups, _start, _rule)
    return optax.adagrad(
        lambda count: groups.schedule(count) / (1 + count * optimizer.lr_decay),
        initial_accumulator_value=optimizer.initial_accumulator,
        eps=optimizer.eps,
    )


def _start(optimizer: Adagrad, parameter: jax.Array) -> Moments:
    return {"second": jnp.full_like(parameter, optimizer.initial_accumulator)}


def _rule(
    optimizer: Adagrad,
    lr: jax.Array,
    update: jax.Array,
    parameter: jax.Array,
    gradient: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments]:
    """Adagrad with eps outside the root (`torch.optim.Adagrad` 2.13)."""
    second = moments["second"] + gradient**2
    rate = lr / (1 + update * optimizer.lr_decay)
    return rate * gradient / (jnp.sqrt(second) + optimizer.eps), {"second": second}
