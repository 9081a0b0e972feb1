"""Adan: by its rule."""

import torch

from lockstep.recipe.optimizers.adan import Adan
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import bias, start_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: Adan, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: Adan, lr: float, update: int, parameter: Tensor, gradient: Tensor, moments: Moments
) -> tuple[Tensor, Moments]:
    """Adan as its authors' code, or as `optax.adan` (0.2.8): PyTorch has none."""
    beta1, beta2, beta3 = optimizer.beta1, optimizer.beta2, optimizer.beta3
    weight = beta2 if optimizer.difference_weight == "beta2" else 1 - beta2
    difference = gradient - (moments["previous"] if update else gradient)
    first = beta1 * moments["first"] + (1 - beta1) * gradient
    mean = beta2 * moments["difference"] + (1 - beta2) * difference
    second = beta3 * moments["second"] + (1 - beta3) * (gradient + weight * difference).square()
    after = {"first": first, "difference": mean, "second": second, "previous": gradient.clone()}
    root = (second / bias(beta3, update) + optimizer.eps_root).sqrt() + optimizer.eps
    direction = (first / bias(beta1, update) + weight * (mean / bias(beta2, update))) / root
    decay = optimizer.weight_decay
    if decay and optimizer.proximal:
        return parameter - (parameter - lr * direction) / (1 + lr * decay), after
    return lr * (direction + decay * parameter), after
