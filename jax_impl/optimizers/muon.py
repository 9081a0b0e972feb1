"""Muon for the weights of linear layers, AdamW for all else.

Both twins go by its rule: `torch.optim.Muon` computes in bfloat16 and leaves all but the weights to
another optimizer; `optax.contrib.muon` corrects the bias of the momentum.
"""

import jax
import jax.numpy as jnp
import optax

from jax_impl.optimizers.from_rule import Groups, Moments, from_rule
from jax_impl.optimizers.parts import start_moments
from lockstep.recipe.optimizers.muon import Muon

__all__ = ["make"]


def make(optimizer: Muon, groups: Groups) -> optax.GradientTransformation:
    """The optimizer for these groups of parameters."""
    return from_rule(optimizer, groups, start_moments, _rule)


def _rule(
    optimizer: Muon,
    lr: jax.Array,
    update: jax.Array,
    parameter: jax.Array,
    gradient: jax.Array,
    moments: Moments,
) -> tuple[jax.Array, Moments]:
    """Muon of `torch.optim` 2.13 or `optax.contrib` 0.2.8 in the recipe's dtype, else AdamW."""
    decayed = lr * optimizer.weight_decay * parameter
    if parameter.ndim != 2:
        beta2 = optimizer.beta2
        first, ahead = _momentum(
            optimizer.beta1, optimizer.nesterov_rest, True, update, gradient, moments["first"]
        )
        second = beta2 * moments["second"] + (1 - beta2) * gradient**2
        root = jnp.sqrt(second / (1 - beta2 ** (update + 1))) + optimizer.eps
        return lr * ahead / root + decayed, {"first": first, "second": second}
    beta = optimizer.momentum
    corrects = optimizer.momentum_correction
    momentum, ahead = _momentum(
        beta, optimizer.nesterov, corrects, update, gradient, moments["momentum"]
    )
    inputs, outputs = parameter.shape
    scale = max(1.0, outputs / inputs) ** 0.5
    if optimizer.adjust == "match_rms_adamw":
        scale = 0.2 * max(outputs, inputs) ** 0.5
    return lr * scale * _orthogonalised(optimizer, ahead) + decayed, {"momentum": momentum}


def _momentum(
    beta: float,
    looks_ahead: bool,
    corrects: bool,
    update: jax.Array,
    gradient: jax.Array,
    before: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The moving average of the gradient, and the direction of the step."""
    after = beta * before + (1 - beta) * gradient
    bias = 1 - beta ** (update + 1) if corrects else 1.0
    if not looks_ahead:
        return after, after / bias
    next_bias = 1 - beta ** (update + 2) if corrects else 1.0
    return after, beta * after / next_bias + (1 - beta) * gradient / bias


def _orthogonalised(optimizer: Muon, weight: jax.Array) -> jax.Array:
    """Newton-Schulz iterations on the weight over its norm; coefficients: Jordan, Muon, 2024."""
    norm = jnp.sqrt((weight**2).sum())
    if optimizer.eps_norm_added:
        x = weight / (norm + optimizer.eps_norm)
    else:
        x = weight / jnp.maximum(norm, optimizer.eps_norm)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(optimizer.orthogonalisations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x.T if tall else x
