"""SGD with momentum: the library's."""

import torch

from lockstep.recipe.optimizers.sgd import Sgd
from pt_impl.optimizers.from_rule import Groups

__all__ = ["make"]


def make(optimizer: Sgd, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return torch.optim.SGD(
        groups,
        lr=1.0,
        momentum=optimizer.momentum,
        dampening=optimizer.dampening,
        nesterov=optimizer.nesterov,
        weight_decay=0.0,
        maximize=False,
        foreach=False,
        differentiable=False,
        fused=False,
    )
