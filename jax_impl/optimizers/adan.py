"""Adan: the library's where it has the knobs, else by its rule."""

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments, from_rule
from jax_impl.optimizers.parts import bias, start_moments
from lockstep.recipe.optimizers.adan import Adan

__all__ = ["make"]


def make(optimizer: Adan, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    if optimizer.difference_weight == "beta2" or (optimizer.proximal and optimizer.weight_decay):
        return from_rule(optimizer, groups, start_moments, _rule)
    return optax.adan(
        groups.schedule,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        b3=optimizer.beta3,
        eps=optimizer.eps,
        eps_root=optimizer.eps_root,
        weight_decay=optimizer.weight_decay,
        mask=groups.mask,
    )


def _rule(
    optimizer: Adan,
    lr: jax.Array,
    update: jax.Array,
    parameter: jax.Array,
    gradient: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments]:
    """Adan as its authors' code, which has another weight and form of decay than Optax."""
    beta1, beta2, beta3 = optimizer.beta1, optimizer.beta2, optimizer.beta3
    weight = beta2 if optimizer.difference_weight == "beta2" else 1 - beta2
    difference = gradient - jnp.where(update > 0, moments["previous"], gradient)
    first = beta1 * moments["first"] + (1 - beta1) * gradient
    mean = beta2 * moments["difference"] + (1 - beta2) * difference
    second = beta3 * moments["second"] + (1 - beta3) * (gradient + weight * difference) ** 2
    after = {"first": first, "difference": mean, "second": second, "previous": gradient}
    root = jnp.sqrt(second / bias(beta3, update) + optimizer.eps_root) + optimizer.eps
    direction = (first / bias(beta1, update) + weight * (mean / bias(beta2, update))) / root
    decay = optimizer.weight_decay
    if decay and optimizer.proximal:
        return parameter - (parameter - lr * direction) / (1 + lr * decay), after
    return lr * (direction + decay * parameter), after
