"""SGD, Adam and their kin."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.recipe import Optimizer

__all__ = ["MAKERS"]

Groups = list[dict[str, Any]]


def _sgd(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        lr=1.0,
        momentum=optimizer.momentum,
        dampening=optimizer.dampening,
        weight_decay=0.0,
        nesterov=optimizer.nesterov,
        maximize=False,
        foreach=False,
        differentiable=False,
        fused=False,
    )


def _adam(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if optimizer.name == "adamw" else torch.optim.Adam
    return kind(
        groups,
        lr=1.0,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        weight_decay=0.0,
        amsgrad=False,
        maximize=False,
        foreach=False,
        capturable=False,
        differentiable=False,
        fused=False,
    )


MAKERS: dict[str, Callable[..., Any]] = {"sgd": _sgd, "adam": _adam, "adamw": _adam}
