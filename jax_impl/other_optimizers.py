"""Adagrad, RMSprop, Adadelta and Rprop."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_impl.by_hand import by_hand
from lockstep.recipe import Optimizer

__all__ = ["MAKERS"]

Schedule = Callable[[jax.Array], jax.Array]
Moments = dict[str, jax.Array]


def _adagrad(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    if not optimizer.eps_in_root:
        made: optax.GradientTransformation = _ADAGRAD(optimizer, schedule, mask)
        return made
    return optax.adagrad(
        lambda count: schedule(count) / (1 + count * optimizer.lr_decay),
        initial_accumulator_value=optimizer.initial_accumulator,
        eps=optimizer.eps,
    )


def _rmsprop(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    """The parts of `optax.rmsprop`, whose momentum has the learning rate in it, in either order."""
    scale = optax.scale_by_stddev if optimizer.centered else optax.scale_by_rms
    scaled = scale(
        decay=optimizer.decay,
        eps=optimizer.eps,
        initial_scale=0.0,
        eps_in_sqrt=optimizer.eps_in_root,
        bias_correction=False,
    )
    rate = optax.scale_by_learning_rate(schedule)
    if not optimizer.momentum:
        return optax.chain(scaled, rate)
    trace = optax.trace(optimizer.momentum, nesterov=False, accumulator_dtype=None)
    if not optimizer.rate_in_momentum:
        return optax.chain(scaled, trace, rate)
    # turned after the momentum, which then has the sign that it has in the twin
    rate = optax.scale_by_learning_rate(schedule, flip_sign=False)
    return optax.chain(scaled, rate, trace, optax.scale(-1.0))


def _adadelta(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.adadelta(schedule, rho=optimizer.decay, eps=optimizer.eps, weight_decay=0.0, weight_decay_mask=None)


def _rprop(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    """By hand: `optax.rprop` (0.2.8) takes each step one update late."""
    made: optax.GradientTransformation = _RPROP(optimizer, schedule, mask)
    return made


def _adagrad_moments(optimizer: Optimizer, parameter: jax.Array) -> Moments:
    return {"second": jnp.full_like(parameter, optimizer.initial_accumulator)}


def _adagrad_step(
    optimizer: Optimizer, lr: jax.Array, update: jax.Array, parameter: jax.Array, gradient: jax.Array, moments: Moments
) -> tuple[jax.Array, Moments]:
    """Adagrad with eps outside the root (`torch.optim.Adagrad`, 2.13)."""
    second = moments["second"] + gradient**2
    rate = lr / (1 + update * optimizer.lr_decay)
    return rate * gradient / (jnp.sqrt(second) + optimizer.eps), {"second": second}


def _rprop_moments(optimizer: Optimizer, parameter: jax.Array) -> Moments:
    return {slot: jnp.zeros_like(parameter) for slot in ("previous", "step_size")}


def _rprop_step(
    optimizer: Optimizer, lr: jax.Array, update: jax.Array, parameter: jax.Array, gradient: jax.Array, moments: Moments
) -> tuple[jax.Array, Moments]:
    """Rprop as `torch.optim.Rprop` (2.13): a gradient that turned counts as 0, now and next."""
    agreement = gradient * moments["previous"]
    factor = jnp.where(agreement > 0, optimizer.grow, jnp.where(agreement < 0, optimizer.shrink, 1.0))
    size = jnp.where(update == 0, lr, moments["step_size"]) * factor
    size = jnp.clip(size, optimizer.step_min, optimizer.step_max)
    gradient = jnp.where(agreement < 0, 0.0, gradient)
    return jnp.sign(gradient) * size, {"previous": gradient, "step_size": size}


_ADAGRAD = by_hand(_adagrad_moments, _adagrad_step)
_RPROP = by_hand(_rprop_moments, _rprop_step)
MAKERS: dict[str, Callable[..., Any]] = {
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "rprop": _rprop,
}
