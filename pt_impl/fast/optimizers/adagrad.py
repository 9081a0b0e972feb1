"""Adagrad; the formulas are those of `lockstep.oracle.optimizers.adagrad`."""

import torch

from lockstep.recipe.optimizers.adagrad import Adagrad
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step, root

__all__ = ["rule", "start"]

Tensor = torch.Tensor


def start(optimizer: Adagrad, moments: Moments) -> None:
    """The sum of squares before the first update."""
    moments["second"] += optimizer.initial_accumulator


def rule(
    optimizer: Adagrad,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The gradient over the root of the sum of its squares."""
    second = moments["second"].addcmul_(gradient, gradient)
    below = root(optimizer.eps, optimizer.eps_in_root, second, room.work)
    return Step(gradient, below, 1 / (1 + update * optimizer.lr_decay))
