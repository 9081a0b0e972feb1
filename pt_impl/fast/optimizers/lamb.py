"""LAMB; the formulas are those of `lockstep.oracle.optimizers.lamb`."""

import torch

from lockstep.recipe.optimizers.lamb import Lamb
from pt_impl.fast.optimizers.adam import step_of_moments
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step, add_decay, norm

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: Lamb,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """Adam's step, decayed, then as long in each tensor as the parameter is large."""
    first, root, scale, *_ = step_of_moments(optimizer, update, gradient, moments, room)
    assert root is not None  # Adam has one
    direction = torch.div(first, root, out=room.work)
    if optimizer.weight_decay:
        add_decay(direction, parameter, optimizer.weight_decay / scale, room.decayed, direction)
    for name, part in room.tensors(direction).items():
        size = norm(room.tensors(parameter)[name])
        length = norm(part) * scale
        part.mul_(torch.where((size > 0) & (length > 0), size / length, 1.0))
    return Step(direction, scale=scale, decay="done")
