"""Signum: by its rule."""

import torch

from lockstep.recipe.optimizers.signum import Signum
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import start_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: Signum, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: Signum, lr: float, update: int, parameter: Tensor, gradient: Tensor, moments: Moments
) -> tuple[Tensor, Moments]:
    """Signum as `optax.signum` (0.2.8): PyTorch has none."""
    mean = optimizer.momentum * moments["mean"] + (1 - optimizer.momentum) * gradient
    return lr * mean.sign(), {"mean": mean}
