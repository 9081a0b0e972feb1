"""RAdam; the formulas are those of `lockstep.oracle.optimizers.radam`."""

import torch

from lockstep.recipe.optimizers.radam import RAdam
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step, two_moments

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: RAdam,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The first moment alone until the second has enough gradients."""
    first, second, bias1, bias2 = two_moments(
        optimizer.beta1, optimizer.beta2, update, gradient, moments
    )
    t = update + 1
    longest = 2 / (1 - optimizer.beta2) - 1
    length = longest - 2 * t * optimizer.beta2**t / bias2
    if length <= 5:
        return Step(first, scale=1 / bias1)
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    eps = optimizer.eps * bias2**0.5 if optimizer.eps_corrected else optimizer.eps
    root = torch.sqrt(second, out=room.work).add_(eps)
    return Step(first, root, ratio**0.5 * bias2**0.5 / bias1)
