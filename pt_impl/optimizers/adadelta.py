"""Adadelta: the library's."""

import torch

from lockstep.recipe.optimizers.adadelta import Adadelta
from pt_impl.optimizers.from_rule import Groups

__all__ = ["make"]


def make(optimizer: Adadelta, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return torch.optim.Adadelta(
        groups,
        lr=1.0,
        rho=optimizer.decay,
        eps=optimizer.eps,
        weight_decay=0.0,
        foreach=False,
        capturable=False,
        maximize=False,
        differentiable=False,
    )
