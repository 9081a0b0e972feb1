"""Adam and AdamW: the library's where it has the knobs, else by their rule."""

import torch

from lockstep.recipe.optimizers.adam import Adam, AdamW
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import bias, root, start_moments, two_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: Adam | AdamW, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    by_step = isinstance(optimizer, AdamW) and optimizer.decay_form == "step"
    if optimizer.eps_in_root or optimizer.amsgrad == "corrected" or by_step:
        return from_rule(optimizer, groups, start_moments, _rule)
    kind = torch.optim.AdamW if isinstance(optimizer, AdamW) else torch.optim.Adam
    return kind(
        groups,
        lr=1.0,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        amsgrad=optimizer.amsgrad == "raw",
        weight_decay=0.0,
        maximize=False,
        foreach=False,
        differentiable=False,
        capturable=False,
        fused=False,
    )


def _rule(
    optimizer: Adam | AdamW,
    lr: float,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
) -> tuple[Tensor, Moments]:
    """Optax 0.2.8: eps inside the root, AMSGrad of the corrected moment, or a decay by step."""
    after = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments)
    bias1 = bias(optimizer.beta1, update)
    bias2 = bias(optimizer.beta2, update)
    second = after["second"]
    if optimizer.amsgrad == "raw":
        second = after["largest_second"] = torch.maximum(moments["largest_second"], second)
    second = second / bias2
    if optimizer.amsgrad == "corrected":
        second = after["largest_second"] = torch.maximum(moments["largest_second"], second)
    below = root(optimizer.eps, optimizer.eps_in_root, second)
    direction: Tensor = after["first"] / bias1 / below
    if isinstance(optimizer, AdamW):
        direction = direction.add(parameter, alpha=optimizer.weight_decay)
    return lr * direction, after
