"""Adafactor, in the forms of PyTorch and of Optax."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.recipe import Optimizer
from pt_impl.by_hand import by_hand

__all__ = ["MAKERS"]

Groups = list[dict[str, Any]]
Moments = dict[str, torch.Tensor]


def _adafactor(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    whole = optimizer.min_factored == 1 and optimizer.clip_threshold >= 1
    if optimizer.eps_in_root or not optimizer.rate_cap or not whole:
        made: torch.optim.Optimizer = _BY_HAND(optimizer, groups)
        return made
    return torch.optim.Adafactor(
        groups,
        lr=1.0,
        beta2_decay=-optimizer.decay_power,
        eps=(optimizer.eps, optimizer.eps_scale),
        d=optimizer.clip_threshold,
        weight_decay=0.0,
        foreach=False,
        maximize=False,
    )


def _adafactor_moments(optimizer: Optimizer, parameter: torch.Tensor) -> Moments:
    if parameter.ndim < 2 or min(parameter.shape) < optimizer.min_factored:
        return {"second": torch.zeros_like(parameter)}
    # named for the (in, out) layout: a row has the outputs of an input
    return {"row": torch.zeros_like(parameter[:1]), "column": torch.zeros_like(parameter[:, :1])}


def _adafactor_step(
    optimizer: Optimizer, lr: float, update: int, parameter: torch.Tensor, gradient: torch.Tensor, moments: Moments
) -> tuple[torch.Tensor, Moments]:
    """Adafactor in the details in which Optax differs from `torch.optim.Adafactor`."""
    share = (update + 1) ** -optimizer.decay_power
    added, least = (optimizer.eps, 0.0) if optimizer.eps_in_root else (0.0, optimizer.eps)
    square = gradient**2 + added
    if "row" in moments:
        row = (1 - share) * moments["row"] + share * square.mean(0, keepdim=True)
        column = (1 - share) * moments["column"] + share * square.mean(1, keepdim=True)
        second = row / row.mean().clamp(min=least) * column
        moments = {"row": row, "column": column}
    else:
        second = (1 - share) * moments["second"] + share * square
        moments = {"second": second}
    direction = gradient / torch.sqrt(second.clamp(min=least**2))
    direction = direction / (_rms(direction) / optimizer.clip_threshold).clamp(min=1.0)
    rate = min(lr, (update + 1) ** -0.5) if optimizer.rate_cap else lr
    return rate * _rms(parameter).clamp(min=optimizer.eps_scale) * direction, moments


def _rms(tensor: torch.Tensor) -> torch.Tensor:
    return torch.sqrt((tensor**2).mean())


_BY_HAND = by_hand(_adafactor_moments, _adafactor_step)
MAKERS: dict[str, Callable[..., Any]] = {"adafactor": _adafactor}
