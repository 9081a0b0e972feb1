"""Adagrad: the library's where it has the knobs, else by its rule."""

import torch

from lockstep.recipe.optimizers.adagrad import Adagrad
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: Adagrad, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    if optimizer.eps_in_root:
        return from_rule(optimizer, groups, _start, _rule)
    return torch.optim.Adagrad(
        groups,
        lr=1.0,
        lr_decay=optimizer.lr_decay,
        weight_decay=0.0,
        initial_accumulator_value=optimizer.initial_accumulator,
        eps=optimizer.eps,
        foreach=False,
        maximize=False,
        differentiable=False,
        fused=False,
    )


def _start(optimizer: Adagrad, parameter: Tensor) -> Moments:
    return {"second": torch.full_like(parameter, optimizer.initial_accumulator)}


def _rule(
    optimizer: Adagrad,
    lr: float,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
) -> tuple[Tensor, Moments]:
    """Adagrad with eps inside the root (`optax.scale_by_rss` 0.2.8)."""
    second = moments["second"] + gradient**2
    rate = lr / (1 + update * optimizer.lr_decay)
    return rate * gradient / torch.sqrt(second + optimizer.eps), {"second": second}
