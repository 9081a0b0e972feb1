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
    share, second = (update + 1) ** -optimizer.decay_power, moments["second"]
    added, least = (optimizer.eps, 0.0) if optimizer.eps_in_root else (0.0, optimizer.eps)
    square = torch.mul(gradient, gradient, out=room.work).add_(added)
    second.lerp_(square, share)
    for name, part in room.tensors(square).items():
        if not is_weight(name) or min(part.shape[-2:]) < optimizer.min_factored:
            continue
        # in the place of the whole second moment, which nobody reads of such a weight
        row = _moved(moments, f"row/{name}", part.mean(-1, keepdim=True), share)
        column = _moved(moments, f"column/{name}", part.mean(-2, keepdim=True), share)
        mean = row.mean(-2, keepdim=True).clamp(min=least)
        torch.mul(row / mean, column, out=room.tensors(second)[name])
    root = torch.clamp(second, min=least**2, out=room.work).sqrt_()
    direction = torch.div(gradient, root, out=room.work)
    direction[room.network.used :].zero_()  # what fills up the vectors may be 0 / 0
    if optimizer.rate_cap:
        most = (update + 1) ** -0.5
        lr = min(lr, most) if isinstance(lr, float) else lr.clamp(max=most)
    for name, part in room.tensors(direction).items():
        long, wide = root_mean_square(room.tensors(parameter)[name]), root_mean_square(part)
        excess = (wide / optimizer.clip_threshold).clamp_(min=1.0)
        part.mul_(long.clamp_(min=optimizer.eps_scale) / excess)
    return Step(direction.mul_(lr), has_rate=True, decay="factor")


def _moved(moments: Moments, name: str, value: Tensor, share: float) -> Tensor:
    """A moving average, which the first value begins."""
    moments[name] = moments[name].lerp_(value, share) if name in moments else value
    return moments[name]
