"""LAMB: the library's where there is one, else by its rule."""

import torch

from lockstep.recipe.optimizers.lamb import Lamb
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import bias, start_moments, two_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: Lamb, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: Lamb, lr: float, update: int, parameter: Tensor, gradient: Tensor, moments: Moments
) -> tuple[Tensor, Moments]:
    """LAMB as `optax.lamb` (0.2.8): PyTorch has none."""
    after = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments)
    bias1 = bias(optimizer.beta1, update)
    bias2 = bias(optimizer.beta2, update)
    direction = after["first"] / bias1 / ((after["second"] / bias2).sqrt() + optimizer.eps)
    direction = direction + optimizer.weight_decay * parameter
    size = parameter.norm()
    length = direction.norm()
    ratio = torch.where((size > 0) & (length > 0), size / length, 1.0)
    return lr * (direction * ratio), after
