"""Lion: the library's where there is one, else by its rule."""

import torch

from lockstep.recipe.optimizers.lion import Lion
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import start_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: Lion, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: Lion, lr: float, update: int, parameter: Tensor, gradient: Tensor, moments: Moments
) -> tuple[Tensor, Moments]:
    """Lion as `optax.lion` (0.2.8): PyTorch has none."""
    before = moments["first"]
    beta1 = optimizer.beta1
    beta2 = optimizer.beta2
    sign = (beta1 * before + (1 - beta1) * gradient).sign()
    first = beta2 * before + (1 - beta2) * gradient
    return lr * (sign + optimizer.weight_decay * parameter), {"first": first}
