"""Adamax: the library's."""

import torch

from lockstep.recipe.optimizers.adamax import Adamax
from pt_impl.optimizers.from_rule import Groups

__all__ = ["make"]


def make(optimizer: Adamax, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return torch.optim.Adamax(
        groups,
        lr=1.0,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        weight_decay=0.0,
        maximize=False,
        foreach=False,
        differentiable=False,
        capturable=False,
    )
