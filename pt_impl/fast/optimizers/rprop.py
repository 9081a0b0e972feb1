"""Rprop; the formulas are those of `lockstep.oracle.optimizers.rprop`."""

import torch

from lockstep.recipe.optimizers.rprop import Rprop
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: Rprop,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The step sizes by the signs of the gradient."""
    size = moments["step_size"]
    previous = moments["previous"]
    if update == 0:
        size.fill_(1.0).mul_(lr)
    agreement = torch.mul(gradient, previous, out=room.work)
    turned = agreement < 0
    factor = torch.where(turned, optimizer.shrink, torch.ones_like(gradient))
    factor = torch.where(agreement > 0, optimizer.grow, factor)
    size.mul_(factor).clamp_(optimizer.step_min, optimizer.step_max)
    torch.where(turned, torch.zeros_like(gradient), gradient, out=previous)
    return Step(torch.sign(previous, out=room.work).mul_(size), has_rate=True)
