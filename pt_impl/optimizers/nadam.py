"""NAdam and NAdamW: the library's where it has the knobs, else by their rule."""

from itertools import chain

import torch

from lockstep.recipe.optimizers.nadam import NAdam, NAdamW
from pt_impl.optimizers.from_rule import Groups, Moments, from_rule
from pt_impl.optimizers.parts import bias, start_moments, two_moments

__all__ = ["make"]

Tensor = torch.Tensor

NO_RAMP = 1e9
"""The pace of a ramp that ends at once: 0.96^1e9 is 0."""


def make(optimizer: NAdam | NAdamW, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer for these groups of parameters."""
    if isinstance(optimizer, NAdamW) and optimizer.decay_form == "step":
        return from_rule(optimizer, groups, _start, _rule)
    library = torch.optim.NAdam(
        groups,
        lr=1.0,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        momentum_decay=optimizer.momentum_decay if optimizer.momentum_ramp else NO_RAMP,
        decoupled_weight_decay=isinstance(optimizer, NAdamW),
        weight_decay=0.0,
        maximize=False,
        foreach=False,
        differentiable=False,
        capturable=False,
    )
    for parameter in chain(*(group["params"] for group in groups)):
        # PyTorch would hold the product of the momenta in float32, which is 7e-10 off after 200
        # updates in float64
        product = torch.ones((), dtype=parameter.dtype)
        zeros = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        library.state[parameter] = {"step": torch.tensor(0.0), "mu_product": product, **zeros}
    return library


def _start(optimizer: NAdam | NAdamW, parameter: Tensor) -> Moments:
    return start_moments(optimizer, parameter) | {"momentum_product": parameter.new_ones(())}


def _rule(
    optimizer: NAdam | NAdamW,
    lr: float,
    update: int,
    parameter: Tensor,
    gradient: Tensor,
    moments: Moments,
) -> tuple[Tensor, Moments]:
    """NAdamW with a decay by step (`optax.nadamw` 0.2.8)."""
    after = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments)
    pace = optimizer.momentum_decay if optimizer.momentum_ramp else NO_RAMP
    now = optimizer.beta1 * (1 - 0.5 * 0.96 ** ((update + 1) * pace))
    following = optimizer.beta1 * (1 - 0.5 * 0.96 ** ((update + 2) * pace))
    product = after["momentum_product"] = moments["momentum_product"] * now
    ahead = following / (1 - product * following) * after["first"]
    ahead = ahead + (1 - now) / (1 - product) * gradient
    root = (after["second"] / bias(optimizer.beta2, update)).sqrt() + optimizer.eps
    return lr * (ahead / root + optimizer.weight_decay * parameter), after
