"""NAdam and NAdamW: the library's where it has the knobs, else by their rule."""

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments, from_rule
from jax_impl.optimizers.parts import bias, start_moments, step_along, stepped, two_moments
from lockstep.recipe.optimizers.nadam import NAdam, NAdamW

__all__ = ["make"]


def make(optimizer: NAdam | NAdamW, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    if optimizer.momentum_ramp:
        return from_rule(optimizer, groups, _start, _rule)
    rule = {
        "b1": optimizer.beta1,
        "b2": optimizer.beta2,
        "eps": optimizer.eps,
        "eps_root": 0.0,
        "mu_dtype": None,
    }
    return stepped(optimizer, groups, optax.scale_by_adam(**rule, nesterov=True))


def _start(optimizer: NAdam | NAdamW, parameter: jax.Array) -> Moments:
    return start_moments(optimizer, parameter) | {"momentum_product": jnp.ones((), parameter.dtype)}


def _rule(
    optimizer: NAdam | NAdamW,
    lr: jax.Array,
    update: jax.Array,
    parameter: jax.Array,
    gradient: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments]:
    """NAdam with a ramp of its momentum (`torch.optim.NAdam` 2.13)."""
    after = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments)
    pace = optimizer.momentum_decay
    now = optimizer.beta1 * (1 - 0.5 * 0.96 ** ((update + 1) * pace))
    following = optimizer.beta1 * (1 - 0.5 * 0.96 ** ((update + 2) * pace))
    product = after["momentum_product"] = moments["momentum_product"] * now
    ahead = following / (1 - product * following) * after["first"]
    ahead = ahead + (1 - now) / (1 - product) * gradient
    direction = ahead / (jnp.sqrt(after["second"] / bias(optimizer.beta2, update)) + optimizer.eps)
    return step_along(optimizer, lr, parameter, direction), after
