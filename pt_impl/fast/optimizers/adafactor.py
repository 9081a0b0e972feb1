"""Adafactor; the formulas are those of `lockstep.oracle.optimizers.adafactor`."""

import torch

from lockstep.recipe.optimizers.adafactor import Adafactor
from lockstep.schedules.rate_tables import is_weight
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step, root_mean_square

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: Adafactor,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The gradient over its factored second moment, in proportion to the parameter."""
    share = (update + 1) ** -optimizer.decay_power
    second = moments["second"]
    added = optimizer.eps if optimizer.eps_in_root else 0.0
    least = 0.0 if optimizer.eps_in_root else optimizer.eps
    square = torch.mul(gradient, gradient, out=room.work).add_(added)
    second.lerp_(square, share)
    for name, part in room.tensors(square).items():
        if not is_weight(name) or min(part.shape[-2:]) < optimizer.min_factored:
            continue
        # into the place of the whole second moment, which a factored weight does not use
        row = _moved(moments, f"row/{name}", part.mean(-1, keepdim=True), share)
        column = _moved(moments, f"column/{name}", part.mean(-2, keepdim=True), share)
        mean = row.mean(-2, keepdim=True).clamp(min=least)
        torch.mul(row / mean, column, out=room.tensors(second)[name])
    root = torch.clamp(second, min=least**2, out=room.work).sqrt_()
    direction = torch.div(gradient, root, out=room.work)
    # the filling at the end of the vectors may be 0 / 0
    direction[room.network.used :].zero_()
    if optimizer.rate_cap:
        most = (update + 1) ** -0.5
        lr = min(lr, most) if isinstance(lr, float) else lr.clamp(max=most)
    for name, part in room.tensors(direction).items():
        size = root_mean_square(room.tensors(parameter)[name])
        excess = (root_mean_square(part) / optimizer.clip_threshold).clamp_(min=1.0)
        part.mul_(size.clamp_(min=optimizer.eps_scale) / excess)
    return Step(direction.mul_(lr), has_rate=True, decay="factor")


def _moved(moments: Moments, name: str, value: Tensor, share: float) -> Tensor:
    """A moving average; its first value is the first `value`."""
    moments[name] = moments[name].lerp_(value, share) if name in moments else value
    return moments[name]
