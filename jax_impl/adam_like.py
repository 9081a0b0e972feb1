"""SGD, Adam and their kin."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lockstep.recipe import Optimizer

__all__ = ["MAKERS"]

Schedule = Callable[[jax.Array], jax.Array]


def _sgd(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.sgd(schedule, momentum=optimizer.momentum or None, nesterov=optimizer.nesterov, accumulator_dtype=None)


def _adam(optimizer: Optimizer, schedule: Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(
            b1=optimizer.beta1, b2=optimizer.beta2, eps=optimizer.eps, eps_root=0.0, mu_dtype=None, nesterov=False
        ),
        *_decoupled(optimizer, mask),
        optax.scale_by_learning_rate(schedule),
    )


def _decoupled(optimizer: Optimizer, mask: Any) -> tuple[optax.GradientTransformation, ...]:
    """Weight decay of the parameters, for those that have it, times the learning rate that follows."""
    if optimizer.name in ("adam",) or not optimizer.weight_decay:
        return ()
    return (optax.add_decayed_weights(optimizer.weight_decay, mask=mask),)


MAKERS: dict[str, Callable[..., Any]] = {"sgd": _sgd, "adam": _adam, "adamw": _adam}
