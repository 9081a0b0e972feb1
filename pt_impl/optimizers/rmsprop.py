"""RMSprop: the library's where it has the knobs, else by its rule."""

import torch

from lockstep.recipe.optimizers.rmsprop import RMSprop
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import root, start_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: RMSprop, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    if optimizer.eps_in_root or optimizer.rate_in_momentum:
        return from_rule(optimizer, groups, start_moments, _rule)
    return torch.optim.RMSprop(
        groups,
        lr=1.0,
        alpha=optimizer.decay,
        eps=optimizer.eps,
        weight_decay=0.0,
        momentum=optimizer.momentum,
        centered=optimizer.centered,
        capturable=False,
        foreach=False,
        maximize=False,
        differentiable=False,
    )


def _rule(
    optimizer: RMSprop,
    lr: float,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
) -> tuple[Tensor, Moments]:
    """RMSprop of Optax 0.2.8: eps inside the root, or the learning rate inside the momentum."""
    decay = optimizer.decay
    variance = decay * moments["second"] + (1 - decay) * gradient**2
    after = {"second": variance}
    if optimizer.centered:
        after["first"] = decay * moments["first"] + (1 - decay) * gradient
        variance = variance - after["first"] ** 2
    step = gradient / root(optimizer.eps, optimizer.eps_in_root, variance)
    before_momentum = lr if optimizer.rate_in_momentum else 1.0
    after_momentum = 1.0 if optimizer.rate_in_momentum else lr
    step = before_momentum * step
    if optimizer.momentum:
        step = after["momentum"] = optimizer.momentum * moments["momentum"] + step
    return after_momentum * step, after
