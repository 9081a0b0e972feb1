"""SGD with momentum; the formulas are those of `lockstep.oracle.optimizers.sgd`."""

import torch

from lockstep.recipe.optimizers.sgd import Sgd
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: Sgd,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The gradient, or its momentum."""
    if not optimizer.momentum:
        return Step(gradient)
    momentum = moments["momentum"]
    if update == 0:
        momentum.copy_(gradient)
    elif optimizer.dampening:
        momentum.mul_(optimizer.momentum).add_(gradient, alpha=1 - optimizer.dampening)
    else:
        torch.add(gradient, momentum, alpha=optimizer.momentum, out=momentum)
    if optimizer.nesterov:
        return Step(torch.add(gradient, momentum, alpha=optimizer.momentum, out=room.work))
    return Step(momentum)
