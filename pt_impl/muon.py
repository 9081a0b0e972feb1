"""Muon for the weights of linear layers, AdamW for all else.

By hand: `torch.optim.Muon` computes in bfloat16, and leaves all but the weights to another optimizer;
`optax.contrib.muon` corrects the bias of the momentum.
"""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.recipe import Optimizer
from pt_impl.by_hand import by_hand

__all__ = ["MAKERS"]

Moments = dict[str, torch.Tensor]


def _muon_moments(optimizer: Optimizer, parameter: torch.Tensor) -> Moments:
    slots = ("momentum",) if parameter.ndim == 2 else ("first", "second")
    return {slot: torch.zeros_like(parameter) for slot in slots}


def _muon_step(
    optimizer: Optimizer, lr: float, update: int, parameter: torch.Tensor, gradient: torch.Tensor, moments: Moments
) -> tuple[torch.Tensor, Moments]:
    """Muon for weights (`torch.optim.Muon` 2.13, in the recipe's dtype; `optax.contrib.muon` 0.2.8), AdamW for all
    else."""
    if parameter.ndim != 2:
        beta1, beta2, looks = optimizer.beta1, optimizer.beta2, optimizer.nesterov_rest
        first, ahead = _momentum(beta1, looks, True, update, gradient, moments["first"])
        second = beta2 * moments["second"] + (1 - beta2) * gradient**2
        root = torch.sqrt(second / (1 - beta2 ** (update + 1))) + optimizer.eps
        return lr * ahead / root, {"first": first, "second": second}
    beta, corrects = optimizer.momentum, optimizer.momentum_correction
    momentum, ahead = _momentum(beta, optimizer.nesterov, corrects, update, gradient, moments["momentum"])
    outputs, inputs = parameter.shape
    scale = max(1.0, outputs / inputs) ** 0.5
    if optimizer.adjust == "match_rms_adamw":
        scale = 0.2 * max(outputs, inputs) ** 0.5
    return lr * scale * _orthogonalised(optimizer, ahead), {"momentum": momentum}


def _momentum(
    beta: float, looks_ahead: bool, corrects: bool, update: int, gradient: torch.Tensor, before: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The moving average of the gradient, and what it steps along."""
    after = beta * before + (1 - beta) * gradient
    bias = 1 - beta ** (update + 1) if corrects else 1.0
    if not looks_ahead:
        return after, after / bias
    next_bias = 1 - beta ** (update + 2) if corrects else 1.0
    return after, beta * after / next_bias + (1 - beta) * gradient / bias


def _orthogonalised(optimizer: Optimizer, weight: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iterations on the weight over its norm; coefficients: Jordan, Muon, 2024."""
    norm = torch.sqrt((weight**2).sum())
    x = weight / (norm + optimizer.eps_norm if optimizer.eps_norm_added else norm.clamp(min=optimizer.eps_norm))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(optimizer.orthogonalisations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x.T if tall else x


MAKERS: dict[str, Callable[..., Any]] = {"muon": by_hand(_muon_moments, _muon_step)}
