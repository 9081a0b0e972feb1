"""AdaBelief: by its rule."""

import torch

from lockstep.recipe.optimizers.adabelief import AdaBelief
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import bias, start_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: AdaBelief, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: AdaBelief,
    lr: float,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
) -> tuple[Tensor, Moments]:
    """AdaBelief as `optax.adabelief` (0.2.8): PyTorch has none."""
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    first = beta1 * moments["first"] + (1 - beta1) * gradient
    distance = gradient - first
    second = beta2 * moments["second"] + (1 - beta2) * distance.square() + optimizer.eps_root
    direction = first / bias(beta1, update)
    if optimizer.nesterov:
        ahead = beta1 * (first / bias(beta1, update + 1))
        direction = ahead + (1 - beta1) * (gradient / bias(beta1, update))
    root = (second / bias(beta2, update)).sqrt() + optimizer.eps
    return lr * (direction / root), {"first": first, "second": second}
