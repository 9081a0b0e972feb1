"""Adadelta; the formulas are those of `lockstep.oracle.optimizers.adadelta`."""

import torch

from lockstep.recipe.optimizers.adadelta import Adadelta
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: Adadelta,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The gradient times the root of past steps over that of past gradients."""
    decay, eps = optimizer.decay, optimizer.eps
    second = moments["second"].mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
    steps = moments["update_second"]
    step = torch.add(steps, eps, out=room.work).sqrt_().div_((second + eps).sqrt_()).mul_(gradient)
    steps.mul_(decay).addcmul_(step, step, value=1 - decay)
    return Step(step)
