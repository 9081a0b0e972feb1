"""Adam and AdamW; the formulas are those of `lockstep.oracle.optimizers.adam`."""

import torch

from lockstep.recipe.optimizers.adam import Adam, AdamW
from lockstep.recipe.optimizers.lamb import Lamb
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step, two_moments

__all__ = ["fused", "fuses", "rule", "step_of_moments"]

Tensor = torch.Tensor


def rule(
    optimizer: Adam | AdamW,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """The first moment over the root of the second, or of the largest second one."""
    decay = optimizer.decay_form if isinstance(optimizer, AdamW) else "step"
    if optimizer.amsgrad == "off" and not optimizer.eps_in_root:
        return step_of_moments(optimizer, update, gradient, moments, room)._replace(decay=decay)
    first, second, bias1, bias2 = two_moments(
        optimizer.beta1, optimizer.beta2, update, gradient, moments
    )
    if optimizer.amsgrad == "raw":
        second = torch.maximum(moments["largest_second"], second, out=moments["largest_second"])
    elif optimizer.amsgrad == "corrected":
        largest = moments["largest_second"]
        corrected = torch.div(second, bias2, out=room.work)
        second = torch.maximum(largest, corrected, out=largest)
        bias2 = 1.0
    # a factor of the root goes into the scale
    if optimizer.eps_in_root:
        root = torch.add(second, optimizer.eps * bias2, out=room.work).sqrt_()
    else:
        root = torch.sqrt(second, out=room.work).add_(optimizer.eps * bias2**0.5)
    return Step(first, root, bias2**0.5 / bias1, decay=decay)


def step_of_moments(
    optimizer: Adam | AdamW | Lamb, update: int, gradient: Tensor, moments: Moments, room: Room
) -> Step:
    """Adam's step without its variants."""
    first, second, bias1, bias2 = two_moments(
        optimizer.beta1, optimizer.beta2, update, gradient, moments
    )
    root = torch.sqrt(second, out=room.work).add_(optimizer.eps * bias2**0.5)
    return Step(first, root, bias2**0.5 / bias1)


def fuses(optimizer: Adam | AdamW) -> bool:
    """Whether PyTorch has a kernel for this Adam, of one pass over the vectors."""
    by_step = False
    if isinstance(optimizer, AdamW) and optimizer.weight_decay:
        by_step = optimizer.decay_form == "step"
    return optimizer.amsgrad != "corrected" and not optimizer.eps_in_root and not by_step


def fused(
    optimizer: Adam | AdamW,
    lr: float,
    decay: float,
    counter: Tensor,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
) -> None:
    """The whole update in place, by the kernel of `torch.optim.AdamW(fused=True)`, PyTorch 2.13."""
    largest = [moments["largest_second"]] if optimizer.amsgrad == "raw" else []
    torch._fused_adamw_(
        [parameter],
        [gradient],
        [moments["first"]],
        [moments["second"]],
        largest,
        [counter],
        lr=lr,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        weight_decay=decay,
        eps=optimizer.eps,
        amsgrad=bool(largest),
        maximize=False,
    )
