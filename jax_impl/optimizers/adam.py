"""Adam and AdamW: the library's where it has the knobs, else by their rule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments, from_rule
from jax_impl.optimizers.parts import (
    bias,
    root,
    start_moments,
    step_along,
    stepped,
    two_moments,
)
from lockstep.recipe.optimizers.adam import Adam, AdamW

__all__ = ["make"]


def make(optimizer: Adam | AdamW, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    if optimizer.amsgrad == "raw":
        return from_rule(optimizer, groups, start_moments, _rule)
    rule: dict[str, Any] = {"b1": optimizer.beta1, "b2": optimizer.beta2, "mu_dtype": None}
    # eps is added either inside the root or to it
    rule["eps"] = 0.0 if optimizer.eps_in_root else optimizer.eps
    rule["eps_root"] = optimizer.eps if optimizer.eps_in_root else 0.0
    if optimizer.amsgrad == "corrected":
        direction = optax.scale_by_amsgrad(**rule, bias_correction_mu=True, bias_correction_nu=True)
    else:
        direction = optax.scale_by_adam(**rule, nesterov=False)
    return stepped(optimizer, groups, direction)


def _rule(
    optimizer: Adam | AdamW,
    lr: jax.Array,
    update: jax.Array,
    parameter: jax.Array,
    gradient: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments]:
    """Adam with AMSGrad of the raw moment (`torch.optim.Adam(amsgrad=True)` 2.13)."""
    after = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments)
    bias1 = bias(optimizer.beta1, update)
    bias2 = bias(optimizer.beta2, update)
    largest = after["largest_second"] = jnp.maximum(moments["largest_second"], after["second"])
    below = root(optimizer.eps, optimizer.eps_in_root, largest / bias2)
    direction = after["first"] / bias1 / below
    return step_along(optimizer, lr, parameter, direction), after
