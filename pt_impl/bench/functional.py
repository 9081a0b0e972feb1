"""Updates as pure functions of tensors.

`torch.optim` changes parameters in place, and its learning rate is a Python number: `torch.compile`
would compile anew for each value.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from lockstep.recipe.optimizers.adam import Adam, AdamW
from lockstep.recipe.optimizers.sgd import Sgd

__all__ = ["initial_moments", "make_updates"]

Optimizer = Sgd | Adam | AdamW


def initial_moments(optimizer: Optimizer, parameter: Tensor) -> tuple[Tensor, ...]:
    """The optimizer's moments of a parameter before the first update."""
    return tuple(torch.zeros_like(parameter) for _ in range(1 if isinstance(optimizer, Sgd) else 2))


def make_updates(optimizer: Optimizer, network: nn.Module) -> Callable[..., Any]:
    """(parameters, moments, batches) -> parameters, moments, scalars of the batches.

    The batches are features, classes, weights of rows, learning rates and the number of each
    update, counted from 1.
    """

    def loss_of(parameters: Any, x_BD: Tensor, y_B: Tensor, weight_B: Tensor) -> Tensor:
        outputs_BK = functional_call(network, parameters, (x_BD,))
        loss_B = nn.functional.cross_entropy(outputs_BK, y_B, reduction="none")
        return (loss_B * weight_B).sum() / weight_B.sum()

    def updates(
        parameters: Any, moments: Any, x: Tensor, y: Tensor, weight: Tensor, lr: Any, number: Any
    ) -> Any:
        scalars: list[Tensor] = []
        for t in range(len(x)):
            before = parameters
            gradients, loss = grad_and_value(loss_of)(parameters, x[t], y[t], weight[t])
            after = {}
            for name, gradient in gradients.items():
                own = parameters[name], gradient, moments[name]
                after[name] = _update_parameter(optimizer, lr[t], number[t], *own)
            parameters = {name: pair[0] for name, pair in after.items()}
            moments = {name: pair[1] for name, pair in after.items()}
            # the other contenders compute these norms at every update too
            changes = [parameters[name] - before[name] for name in parameters]
            scalars += [loss, _norm(gradients.values()), _norm(changes)]
        return parameters, moments, torch.stack(scalars)

    return updates


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()


def _update_parameter(
    optimizer: Optimizer,
    lr: Tensor,
    number: Tensor,
    parameter: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, ...],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The parameter and its moments after an update; formulas: `lockstep.oracle.optimizers`."""
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
    step = lr * corrected_first / (corrected_second.sqrt() + optimizer.eps)
    return parameter - step, (first, second)
