"""The recipe's optimizer with its learning-rate schedule; every hyperparameter passed explicitly."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lockstep.recipe import Optimizer

__all__ = ["learning_rate", "make_optimizer"]


def make_optimizer(
    optimizer: Optimizer, schedule: Callable[[jax.Array], jax.Array], parameters: Any
) -> tuple[optax.GradientTransformation, optax.OptState]:
    """The optimizer, which carries its schedule, and its state before the first update."""
    betas = {"b1": optimizer.beta1, "b2": optimizer.beta2}
    decay, eps = optimizer.weight_decay, optimizer.eps
    made: optax.GradientTransformation
    if optimizer.name == "sgd":
        momentum = optimizer.momentum or None
        made = optax.sgd(schedule, momentum=momentum, nesterov=optimizer.nesterov, accumulator_dtype=None)
    elif optimizer.name == "adam":
        made = optax.adam(schedule, **betas, eps=eps, eps_root=0.0, mu_dtype=None, nesterov=False)
    else:
        made = optax.adamw(
            schedule, **betas, eps=eps, eps_root=0.0, mu_dtype=None, weight_decay=decay, mask=None, nesterov=False
        )
    if decay and optimizer.name != "adamw":
        made = optax.chain(optax.add_decayed_weights(decay, mask=None), made)
    return made, made.init(parameters)


def learning_rate(optimizer: optax.OptState, schedule: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The learning rate that the next update will use."""
    # every chain ends with the learning rate, and its state counts the updates
    while not isinstance(optimizer, optax.ScaleByScheduleState):
        optimizer = optimizer[-1]
    return schedule(optimizer.count)
