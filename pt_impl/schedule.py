"""The learning rate of an update, looked up in the one closed form that both frameworks are fed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["applied_rates", "make_schedule"]


def make_schedule(table_T: NDArray[Any]) -> Callable[[int], float]:
    """Update, counted from 0 -> its learning rate; for `LambdaLR` over a base rate of 1.

    Past the last update the last rate holds: `LambdaLR.step` asks once more after it.
    """
    return lambda update: float(table_T[min(update, len(table_T) - 1)])


def applied_rates(table_T: NDArray[Any]) -> NDArray[Any]:
    """The learning rates as applied (T,): what plain SGD subtracts where the gradient is 1."""
    parameter = torch.nn.Parameter(torch.zeros((), dtype=torch.from_numpy(table_T).dtype))
    optimizer = torch.optim.SGD(
        [parameter],
        lr=1.0,
        momentum=0.0,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
        maximize=False,
        foreach=False,
        differentiable=False,
        fused=False,
    )
    scheduler = LambdaLR(optimizer, make_schedule(table_T))
    parameter.grad = torch.ones_like(parameter)
    value = parameter.detach()
    parameter_T = np.empty_like(table_T)
    for update in range(len(table_T)):
        value.zero_()
        optimizer.step()
        scheduler.step()
        parameter_T[update] = value.item()
    return 0 - parameter_T
