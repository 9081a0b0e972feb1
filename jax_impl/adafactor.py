"""Adafactor, in the forms of PyTorch and of Optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_impl.by_hand import by_hand
from lockstep.recipe import Optimizer

__all__ = ["MAKERS"]

Moments = dict[str, jax.Array]


def _adafactor_moments(optimizer: Optimizer, parameter: jax.Array) -> Moments:
    if parameter.ndim < 2 or min(parameter.shape) < optimizer.min_factored:
        return {"second": jnp.zeros_like(parameter)}
    return {"row": jnp.zeros_like(parameter[:, :1]), "column": jnp.zeros_like(parameter[:1])}


def _adafactor_step(
    optimizer: Optimizer, lr: jax.Array, update: jax.Array, parameter: jax.Array, gradient: jax.Array, moments: Moments
) -> tuple[jax.Array, Moments]:
    """By hand: `optax.scale_by_factored_rms` (0.2.8) computes the decay rate in float32."""
    share = (update + 1) ** -optimizer.decay_power
    added, least = (optimizer.eps, 0.0) if optimizer.eps_in_root else (0.0, optimizer.eps)
    square = gradient**2 + added
    if "row" in moments:
        row = (1 - share) * moments["row"] + share * square.mean(1, keepdims=True)
        column = (1 - share) * moments["column"] + share * square.mean(0, keepdims=True)
        second = row / jnp.maximum(row.mean(), least) * column
        moments = {"row": row, "column": column}
    else:
        second = (1 - share) * moments["second"] + share * square
        moments = {"second": second}
    direction = gradient / jnp.sqrt(jnp.maximum(second, least**2))
    direction = direction / jnp.maximum(_rms(direction) / optimizer.clip_threshold, 1.0)
    rate = jnp.minimum(lr, (update + 1) ** -0.5) if optimizer.rate_cap else lr
    return rate * jnp.maximum(_rms(parameter), optimizer.eps_scale) * direction, moments


def _rms(tensor: jax.Array) -> jax.Array:
    return jnp.sqrt((tensor**2).mean())


MAKERS: dict[str, Callable[..., Any]] = {"adafactor": by_hand(_adafactor_moments, _adafactor_step)}
