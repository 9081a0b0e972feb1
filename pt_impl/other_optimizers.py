"""Adagrad, RMSprop, Adadelta and Rprop."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.recipe import Optimizer
from pt_impl.by_hand import by_hand

__all__ = ["MAKERS"]

Groups = list[dict[str, Any]]
Moments = dict[str, torch.Tensor]


def _adagrad(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    if optimizer.eps_in_root:
        made: torch.optim.Optimizer = _ADAGRAD(optimizer, groups)
        return made
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


def _rmsprop(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    if optimizer.eps_in_root or optimizer.rate_in_momentum:
        made: torch.optim.Optimizer = _RMSPROP(optimizer, groups)
        return made
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


def _adadelta(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.Adadelta(
        groups,
        lr=1.0,
        rho=optimizer.decay,
        eps=optimizer.eps,
        weight_decay=0.0,
        foreach=False,
        capturable=False,
        maximize=False,
        differentiable=False,
    )


def _rprop(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.Rprop(
        groups,
        lr=1.0,
        etas=(optimizer.shrink, optimizer.grow),
        step_sizes=(optimizer.step_min, optimizer.step_max),
        capturable=False,
        foreach=False,
        maximize=False,
        differentiable=False,
    )


def _adagrad_moments(optimizer: Optimizer, parameter: torch.Tensor) -> Moments:
    return {"second": torch.full_like(parameter, optimizer.initial_accumulator)}


def _adagrad_step(
    optimizer: Optimizer, lr: float, update: int, parameter: torch.Tensor, gradient: torch.Tensor, moments: Moments
) -> tuple[torch.Tensor, Moments]:
    """Adagrad with eps inside the root (`optax.scale_by_rss`, 0.2.8)."""
    second = moments["second"] + gradient**2
    rate = lr / (1 + update * optimizer.lr_decay)
    return rate * gradient / torch.sqrt(second + optimizer.eps), {"second": second}


def _rmsprop_moments(optimizer: Optimizer, parameter: torch.Tensor) -> Moments:
    used = {"second": True, "first": optimizer.centered, "momentum": optimizer.momentum > 0}
    return {slot: torch.zeros_like(parameter) for slot in used if used[slot]}


def _rmsprop_step(
    optimizer: Optimizer, lr: float, update: int, parameter: torch.Tensor, gradient: torch.Tensor, moments: Moments
) -> tuple[torch.Tensor, Moments]:
    """RMSprop with eps inside the root, or the learning rate inside the momentum (`optax.rmsprop`, 0.2.8)."""
    decay, changed = optimizer.decay, {}
    variance = changed["second"] = decay * moments["second"] + (1 - decay) * gradient**2
    if optimizer.centered:
        changed["first"] = decay * moments["first"] + (1 - decay) * gradient
        variance = variance - changed["first"] ** 2
    eps = optimizer.eps
    step = gradient / (torch.sqrt(variance + eps) if optimizer.eps_in_root else torch.sqrt(variance) + eps)
    before, after = (lr, 1.0) if optimizer.rate_in_momentum else (1.0, lr)
    step = before * step
    if optimizer.momentum:
        step = changed["momentum"] = optimizer.momentum * moments["momentum"] + step
    return after * step, changed


_ADAGRAD = by_hand(_adagrad_moments, _adagrad_step)
_RMSPROP = by_hand(_rmsprop_moments, _rmsprop_step)
MAKERS: dict[str, Callable[..., Any]] = {
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "rprop": _rprop,
}
