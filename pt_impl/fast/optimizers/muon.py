"""Muon; the formulas are those of `lockstep.oracle.optimizers.muon`."""

import torch

from lockstep.recipe.optimizers.muon import Muon
from lockstep.schedules.rate_tables import is_weight
from pt_impl.fast.optimizers.step import Moments, Rate, Room, Step, norm, two_moments

__all__ = ["rule"]

Tensor = torch.Tensor


def rule(
    optimizer: Muon,
    lr: Rate,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
    room: Room,
) -> Step:
    """AdamW everywhere, then the orthogonalised momentum in the places of the weights."""
    first, second, _, bias2 = two_moments(
        optimizer.beta1, optimizer.beta2, update, gradient, moments
    )
    root = torch.sqrt(second, out=room.work).add_(optimizer.eps * bias2**0.5)
    ahead = _ahead(optimizer.beta1, optimizer.nesterov_rest, True, update, gradient, first)
    step = torch.div(ahead, root, out=room.work).mul_(bias2**0.5)
    beta = optimizer.momentum
    looks = optimizer.nesterov
    corrects = optimizer.momentum_correction
    momentum = moments["momentum"].lerp_(gradient, 1 - beta)
    for name, part in room.tensors(step).items():
        if is_weight(name):
            of_weight = room.tensors(gradient)[name]
            average = room.tensors(momentum)[name]
            ahead = _ahead(beta, looks, corrects, update, of_weight, average)
            inputs, outputs = part.shape[-2:]
            scale = max(1.0, outputs / inputs) ** 0.5
            if optimizer.adjust == "match_rms_adamw":
                scale = 0.2 * max(outputs, inputs) ** 0.5
            torch.mul(_orthogonalised(optimizer, ahead), scale, out=part)
    return Step(step, decay="factor")


def _ahead(
    beta: float, looks: bool, corrects: bool, update: int, gradient: Tensor, average: Tensor
) -> Tensor:
    """The direction of the step: a moving average, or its next value for the same gradient."""
    bias = 1 - beta ** (update + 1) if corrects else 1.0
    next_bias = 1 - beta ** (update + 2) if corrects else 1.0
    if not looks:
        return average / bias
    return torch.add(average * (beta / next_bias), gradient, alpha=(1 - beta) / bias)


def _orthogonalised(optimizer: Muon, weight: Tensor) -> Tensor:
    """Newton-Schulz iterations on a weight over its norm; coefficients: Jordan, Muon, 2024."""
    add_product = torch.baddbmm if weight.ndim == 3 else torch.addmm
    length = norm(weight)
    if optimizer.eps_norm_added:
        x = weight / (length + optimizer.eps_norm)
    else:
        x = weight / length.clamp(min=optimizer.eps_norm)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    for _ in range(optimizer.orthogonalisations):
        gram = x @ x.mT
        polynomial = add_product(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = add_product(x, polynomial, x, beta=3.4445)
    return x.mT if is_tall else x
