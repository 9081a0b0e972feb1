"""Adafactor: the library's where it has the knobs and its precision, else by its rule."""

import torch

from lockstep.recipe.optimizers.adafactor import Adafactor
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import root_mean_square, start_moments

__all__ = ["make"]

Tensor = torch.Tensor


def make(optimizer: Adafactor, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    whole = optimizer.min_factored == 1 and optimizer.clip_threshold >= 1
    if optimizer.eps_in_root or not optimizer.rate_cap or not whole:
        return from_rule(optimizer, groups, start_moments, _rule)
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


def _rule(
    optimizer: Adafactor,
    lr: float,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
) -> tuple[Tensor, Moments]:
    """Adafactor as `optax.adafactor` (0.2.8), where it differs from `torch.optim.Adafactor`."""
    share = (update + 1) ** -optimizer.decay_power
    added = optimizer.eps if optimizer.eps_in_root else 0.0
    least = 0.0 if optimizer.eps_in_root else optimizer.eps
    square = gradient**2 + added
    if "row" in moments:
        # rows and columns are those of the layout (in, out)
        row = (1 - share) * moments["row"] + share * square.mean(0, keepdim=True)
        column = (1 - share) * moments["column"] + share * square.mean(1, keepdim=True)
        second = row / row.mean().clamp(min=least) * column
        after = {"row": row, "column": column}
    else:
        second = (1 - share) * moments["second"] + share * square
        after = {"second": second}
    direction = gradient / torch.sqrt(second.clamp(min=least**2))
    direction = direction / (root_mean_square(direction) / optimizer.clip_threshold).clamp(min=1.0)
    rate = min(lr, (update + 1) ** -0.5) if optimizer.rate_cap else lr
    step = rate * root_mean_square(parameter).clamp(min=optimizer.eps_scale) * direction
    return step + lr * optimizer.weight_decay * parameter, after
