"""The optimizers as pure functions of tensors: `torch.optim` changes parameters in place, and its
learning rate is a Python number that `torch.compile` would compile anew for each value."""

from typing import Any

import torch

from lockstep.recipe.optimizers.adam import Adam, AdamW
from lockstep.recipe.optimizers.sgd import Sgd

__all__ = ["initial_moments", "update_parameter"]


def initial_moments(
    optimizer: Sgd | Adam | AdamW, parameter: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """What the optimizer remembers before the first update: momentum, or both moments."""
    return tuple(torch.zeros_like(parameter) for _ in range(1 if isinstance(optimizer, Sgd) else 2))


def update_parameter(
    optimizer: Sgd | Adam | AdamW,
    lr: Any,
    number: Any,
    parameter: Any,
    gradient: Any,
    moments: tuple[Any, ...],
) -> tuple[Any, tuple[Any, ...]]:
    """The parameter and its moments after update `number`, counted from 1; the formulas of
    `lockstep.oracle`.
    """
    decay = optimizer.weight_decay
    if not isinstance(optimizer, AdamW):
        gradient = gradient + decay * parameter
    if isinstance(optimizer, Sgd):
        momentum = optimizer.momentum * moments[0] + gradient
        direction = gradient + optimizer.momentum * momentum if optimizer.nesterov else momentum
        return parameter - lr * direction, (momentum,)
    if isinstance(optimizer, AdamW):
        parameter = parameter * (1 - lr * decay)
    first = optimizer.beta1 * moments[0] + (1 - optimizer.beta1) * gradient
    second = optimizer.beta2 * moments[1] + (1 - optimizer.beta2) * gradient**2
    corrected_first = first / (1 - optimizer.beta1**number)
    corrected_second = second / (1 - optimizer.beta2**number)
    return parameter - lr * corrected_first / (corrected_second.sqrt() + optimizer.eps), (
        first,
        second,
    )
