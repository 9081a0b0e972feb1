"""Rprop: the library's where it takes each step in time, else by its rule."""

import torch

from lockstep.recipe.optimizers.rprop import Rprop
from pt_impl.optimizers.from_rule import Groups

__all__ = ["make"]


def make(optimizer: Rprop, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    return torch.optim.Rprop(
        groups,
        lr=1.0,
        etas=(optimizer.shrink, optimizer.grow),
        step_sizes=(optimizer.step_min, optimizer.step_max),
        capturable=False,
        foreach=False,
        maximize=False,
        differentiable=False,
    )
