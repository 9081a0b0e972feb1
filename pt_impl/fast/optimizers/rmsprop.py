"""RMSprop; the formulas are those of `lockstep.oracle.optimizers.rmsprop`."""

import torch

from lockstep.recipe.optimizers.rmsprop import RMSprop
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step, root

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: RMSprop,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The gradient over the root of its mean square, or the momentum of this quotient."""
    decay = optimizer.decay
    variance = moments["second"].mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
    if optimizer.centered:
        first = moments["first"].lerp_(gradient, 1 - decay)
        variance = torch.addcmul(variance, first, first, value=-1, out=room.work)
    below = root(optimizer.eps, optimizer.eps_in_root, variance, room.work)
    if not optimizer.momentum:
        return Step(gradient, below)
    step = torch.div(gradient, below, out=room.work)
    if optimizer.rate_in_momentum:
        step.mul_(lr)
    momentum = moments["momentum"].mul_(optimizer.momentum).add_(step)
    return Step(momentum, has_rate=optimizer.rate_in_momentum)
