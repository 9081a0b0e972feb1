"""NAdam and NAdamW; the formulas are those of `lockstep.oracle.optimizers.nadam`."""

import torch

from lockstep.recipe.optimizers.nadam import NAdam, NAdamW
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step, two_moments

__all__ = ["rule", "start"]

Tensor = torch.Tensor


def start(optimizer: NAdam | NAdamW, moments: Moments) -> None:
    """The product of no momenta, 1; it is float64, for every update multiplies it."""
    if optimizer.momentum_ramp:
        moments["momentum_product"] = torch.ones((), dtype=torch.float64)


def rule(
    optimizer: NAdam | NAdamW,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """A look ahead along the momentum."""
    first, second, _, bias2 = two_moments(
        optimizer.beta1, optimizer.beta2, update, gradient, moments
    )
    now = optimizer.beta1 * _ramp(optimizer, update + 1)
    following = optimizer.beta1 * _ramp(optimizer, update + 2)
    product = now ** (update + 1)
    if optimizer.momentum_ramp:
        product = moments["momentum_product"].mul_(now).item()
    ahead = following / (1 - product * following) * first + (1 - now) / (1 - product) * gradient
    root = torch.sqrt(second, out=room.work).add_(optimizer.eps * bias2**0.5)
    decay = optimizer.decay_form if isinstance(optimizer, NAdamW) else "step"
    return Step(ahead, root, bias2**0.5, decay=decay)


def _ramp(optimizer: NAdam | NAdamW, t: int) -> float:
    """beta1 at update t, counted from 1, over beta1."""
    if not optimizer.momentum_ramp:
        return 1.0
    return float(1 - 0.5 * 0.96 ** (t * optimizer.momentum_decay))
