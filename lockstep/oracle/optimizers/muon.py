"""Muon for the weights of linear layers, AdamW for all else.

For a weight, m <- momentum m + (1 - momentum) g. Newton-Schulz iterations drive its singular values
towards 1: X <- a X + (b A + c A A) X with A = X X^T. The step is lr scale X. Source: Jordan, Muon
(2024). The scale is "original" or that of Liu et al., arXiv:2502.16982, which matches the size of
AdamW's steps.
"""

from typing import Any

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import average, bias, decayed
from lockstep.recipe.optimizers.muon import Muon

__all__ = ["NEWTON_SCHULZ", "rule", "weight_rule"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""a, b and c of the iteration, in both libraries."""


def rule(
    optimizer: Muon,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """AdamW for all but the weights; it may look ahead as `optax.adamw(nesterov=True)` does."""
    beta1 = optimizer.beta1
    looks = optimizer.nesterov_rest
    before = moments.get("first")
    first, ahead = _ahead("beta1", beta1, looks, True, update, gradient, before, exact)
    second = average("beta2", optimizer.beta2, moments.get("second"), gradient**2, exact)
    corrected = exact.round(second / bias("beta2", optimizer.beta2, update, exact))
    step = exact.round(lr * exact.round(ahead / (np.sqrt(corrected) + optimizer.eps)))
    after = exact.round(decayed(optimizer.weight_decay, lr, parameter, exact) - step)
    return after, {"first": first, "second": second}


def weight_rule(
    optimizer: Muon,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """Muon for the weight of a linear layer."""
    before = moments.get("momentum")
    beta = optimizer.momentum
    looks = optimizer.nesterov
    corrects = optimizer.momentum_correction
    momentum, ahead = _ahead("momentum", beta, looks, corrects, update, gradient, before, exact)
    x = _orthogonalised(optimizer, ahead, exact)
    inputs, outputs = x.shape[-2:]
    scale = np.sqrt(max(1.0, outputs / inputs))
    if optimizer.adjust == "match_rms_adamw":
        scale = 0.2 * np.sqrt(max(inputs, outputs))
    step = exact.round(lr * exact.round(scale * x))
    after = exact.round(decayed(optimizer.weight_decay, lr, parameter, exact) - step)
    return after, {"momentum": momentum}


def _ahead(
    name: str,
    beta: float,
    looks: bool,
    corrects: bool,
    update: int,
    gradient: Array,
    before: Array | None,
    exact: Exact,
) -> tuple[Array, Array]:
    """The moving average of the gradient, and the direction of the step: the average, or with a
    look ahead its next value for the same gradient. Either may be corrected for its start at 0.
    """
    after = average(name, beta, before, gradient, exact)
    ahead = after
    if corrects:
        gradient = exact.round(gradient / bias(name, beta, update, exact))
        ahead = exact.round(after / bias(name, beta, update + looks, exact))
    return after, average(name, beta, ahead, gradient, exact) if looks else ahead


def _orthogonalised(optimizer: Muon, weight: Array, exact: Exact) -> Array:
    """Newton-Schulz iterations on the weight over its norm."""
    norm: Any = exact.round(np.sqrt((weight**2).sum(axis=(-2, -1), keepdims=True)))
    if optimizer.eps_norm_added:
        norm = norm + optimizer.eps_norm
    else:
        norm = np.maximum(norm, optimizer.eps_norm)
    x = exact.round(weight / norm)
    tall = x.shape[-2] > x.shape[-1]
    x = x.swapaxes(-1, -2) if tall else x
    a, b, c = (exact.constant(f"newton_schulz {i}", value) for i, value in enumerate(NEWTON_SCHULZ))
    for _ in range(optimizer.orthogonalisations):
        gram = exact.dot(x, x.swapaxes(-1, -2))
        product = exact.round(c * exact.dot(gram, gram))
        polynomial = exact.near(b * gram + product, np.maximum(np.abs(b * gram), np.abs(product)))
        product = exact.dot(polynomial, x)
        x = exact.near(a * x + product, np.maximum(np.abs(a * x), np.abs(product)))
    return x.swapaxes(-1, -2) if tall else x
