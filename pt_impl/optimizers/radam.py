"""RAdam: the library's where it has the knobs, else by its rule."""

import torch

from lockstep.recipe.optimizers.radam import RAdam
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import bias, start_moments, two_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: RAdam, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    if optimizer.eps_corrected:
        return from_rule(optimizer, groups, start_moments, _rule)
    return torch.optim.RAdam(
        groups,
        lr=1.0,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        decoupled_weight_decay=False,
        weight_decay=0.0,
        maximize=False,
        foreach=False,
        differentiable=False,
        capturable=False,
    )


def _rule(
    optimizer: RAdam, lr: float, update: int, parameter: Tensor, gradient: Tensor, moments: Moments
) -> tuple[Tensor, Moments]:
    """RAdam with eps on the root of the corrected moment (`optax.radam` 0.2.8)."""
    after = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments)
    bias1 = bias(optimizer.beta1, update)
    bias2 = bias(optimizer.beta2, update)
    longest = 2 / (1 - optimizer.beta2) - 1
    length = longest - 2 * (update + 1) * (1 - bias2) / bias2
    direction = after["first"] / bias1
    if length > 5:
        shrunk = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        direction = shrunk**0.5 * direction / ((after["second"] / bias2).sqrt() + optimizer.eps)
    return lr * direction, after
