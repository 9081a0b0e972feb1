"""The recipe's optimizer with its learning-rate schedule; every hyperparameter passed explicitly."""

from collections.abc import Callable, Iterable

import torch
from torch.optim.lr_scheduler import LambdaLR

from lockstep.recipe import Optimizer

__all__ = ["learning_rate", "make_optimizer"]


def make_optimizer(
    optimizer: Optimizer, schedule: Callable[[int], float], parameters: Iterable[torch.nn.Parameter]
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimizer, and the scheduler that sets its learning rate (base rate 1, times the schedule)."""
    betas = (optimizer.beta1, optimizer.beta2)
    decay, eps = optimizer.weight_decay, optimizer.eps
    made: torch.optim.Optimizer
    if optimizer.name == "sgd":
        made = torch.optim.SGD(
            parameters,
            lr=1.0,
            momentum=optimizer.momentum,
            dampening=0.0,
            weight_decay=decay,
            nesterov=optimizer.nesterov,
            maximize=False,
            foreach=False,
            differentiable=False,
            fused=False,
        )
    else:
        kind = torch.optim.AdamW if optimizer.name == "adamw" else torch.optim.Adam
        made = kind(
            parameters,
            lr=1.0,
            betas=betas,
            eps=eps,
            weight_decay=decay,
            amsgrad=False,
            maximize=False,
            foreach=False,
            capturable=False,
            differentiable=False,
            fused=False,
        )
    return made, LambdaLR(made, schedule)


def learning_rate(optimizer: torch.optim.Optimizer, schedule: Callable[[int], float]) -> float:
    """The learning rate that the next update will use."""
    return float(optimizer.param_groups[0]["lr"])
