"""Adamax; the formulas are those of `lockstep.oracle.optimizers.adamax`."""

import torch

from lockstep.recipe.optimizers.adamax import Adamax
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: Adamax,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The first moment over the infinity norm."""
    first = moments["first"].lerp_(gradient, 1 - optimizer.beta1)
    infinity = moments["infinity"].mul_(optimizer.beta2)
    torch.maximum(infinity, torch.abs(gradient, out=room.work).add_(optimizer.eps), out=infinity)
    return Step(first, infinity, 1 / (1 - optimizer.beta1 ** (update + 1)))
