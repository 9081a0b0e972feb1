"""Lion; the formulas are those of `lockstep.oracle.optimizers.lion`."""

import torch

from lockstep.recipe.optimizers.lion import Lion
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: Lion,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The sign of a mean of momentum and gradient."""
    first = moments["first"]
    mean = torch.mul(first, optimizer.beta1, out=room.work)
    sign = mean.add_(gradient, alpha=1 - optimizer.beta1).sign_()
    first.mul_(optimizer.beta2).add_(gradient, alpha=1 - optimizer.beta2)
    return Step(sign)
