"""RAdam: the library's where it has the knobs, else by its rule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments, from_rule
from jax_impl.optimizers.parts import bias, start_moments, tabulated, two_moments
from lockstep.recipe.optimizers.radam import RAdam

__all__ = ["make"]


def make(optimizer: RAdam, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: RAdam,
    lr: jax.Array,
    update: jax.Array,
    parameter: jax.Array,
    gradient: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments]:
    """`torch.optim.RAdam` 2.13 or `optax.radam` 0.2.8, with the rectification in float64."""
    after = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments)
    bias1 = bias(optimizer.beta1, update)
    bias2 = bias(optimizer.beta2, update)
    longest = 2 / (1 - optimizer.beta2) - 1

    def length(t: Any, bias2: Any) -> Any:
        return longest - 2 * t * (1 - bias2) / bias2

    def shrink(rho: Any) -> Any:
        return ((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)) ** 0.5

    def early(t: int) -> float:
        rho = length(t, 1 - optimizer.beta2**t)
        return float(shrink(rho)) if rho > 5 else 0.0

    t = update + 1
    rho = length(t, bias2)
    shrunk = tabulated(early, t, jnp.where(rho > 5, shrink(rho), 0.0))
    if optimizer.eps_corrected:
        root = jnp.sqrt(after["second"] / bias2) + optimizer.eps
    else:
        root = (jnp.sqrt(after["second"]) + optimizer.eps) / jnp.sqrt(bias2)
    direction = after["first"] / bias1 * jnp.where(shrunk > 0, shrunk / root, 1.0)
    return lr * direction, after
