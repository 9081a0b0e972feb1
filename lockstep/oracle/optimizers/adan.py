"""Adan: Nesterov momentum from the differences of gradients.

With d the gradient less the one before (0 at the first update) and w = beta2: m <- beta1 m + (1 -
beta1) g, v <- beta2 v + (1 - beta2) d, n <- beta3 n + (1 - beta3) (g + w d)^2, each divided by 1 -
beta^t for its start at 0; parameter <- (parameter - lr (m + w v) / (sqrt(n) + eps)) / (1 + lr
weight_decay). Sources: Xie et al., arXiv:2208.06677, algorithm 1, whose betas are 1 less these,
and which leaves the start to its code (github.com/sail-sg/Adan, adan.py); `optax.adan` 0.2.8, where
w is 1 - beta2, eps_root is inside the root, and the decay is a part of the step.
"""

from typing import Any

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import average, bias
from lockstep.recipe.optimizers.adan import Adan

__all__ = ["rule"]


def rule(
    optimizer: Adan,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, its three moments, and the gradient."""
    beta1, beta2, beta3 = optimizer.beta1, optimizer.beta2, optimizer.beta3
    weight = _difference_weight(optimizer, exact)
    difference = exact.round(gradient - moments.get("previous", gradient))
    both = exact.round(gradient + exact.round(weight * difference))
    after = {
        "first": average("beta1", beta1, moments.get("first"), gradient, exact),
        "difference": average("beta2", beta2, moments.get("difference"), difference, exact),
        "second": average("beta3", beta3, moments.get("second"), both**2, exact),
        "previous": gradient,
    }
    first = exact.round(after["first"] / bias("beta1", beta1, update, exact))
    ahead = exact.round(after["difference"] / bias("beta2", beta2, update, exact))
    second = exact.round(after["second"] / bias("beta3", beta3, update, exact))
    root = exact.round(np.sqrt(exact.round(second + optimizer.eps_root))) + optimizer.eps
    direction = exact.round(exact.round(first + exact.round(weight * ahead)) / root)
    decay = optimizer.weight_decay
    if decay and not optimizer.proximal:
        direction = exact.round(direction + exact.round(decay * parameter))
    stepped = exact.round(parameter - exact.round(lr * direction))
    if decay and optimizer.proximal:
        stepped = exact.round(stepped / exact.constant("1 + decay", 1 + lr * decay))
    return stepped, after


def _difference_weight(optimizer: Adan, exact: Exact) -> Any:
    if optimizer.difference_weight == "beta2":
        return exact.constant("beta2", optimizer.beta2)
    return exact.constant("1 - beta2", 1 - optimizer.beta2)
