"""Parts that the rules of several optimizers share."""

from typing import Any

import torch

from pt_impl.optimizers.from_rule import Moments

__all__ = ["bias", "root", "root_mean_square", "start_moments", "two_moments"]


def start_moments(optimizer: Any, parameter: torch.Tensor) -> Moments:
    """Zeros for every slot of the optimizer, which gives shapes in the layout (in, out)."""
    slots = optimizer.slots(tuple(parameter.shape[::-1]))
    return {slot: parameter.new_zeros(shape[::-1]) for slot, shape in slots.items()}


def two_moments(beta1: float, beta2: float, gradient: torch.Tensor, moments: Moments) -> Moments:
    """Moving averages of the gradient and of its square."""
    first = beta1 * moments["first"] + (1 - beta1) * gradient
    second = beta2 * moments["second"] + (1 - beta2) * gradient.square()
    return {"first": first, "second": second}


def bias(beta: float, update: int) -> float:
    """1 - beta^(update + 1): the bias of a moving average that began at 0."""
    return float(1 - beta ** (update + 1))


def root(eps: float, in_root: bool, second: torch.Tensor) -> torch.Tensor:
    """The root of a second moment, with eps inside the root or added to it."""
    return torch.sqrt(second + eps) if in_root else torch.sqrt(second) + eps


def root_mean_square(tensor: torch.Tensor) -> torch.Tensor:
    """The root mean square of all elements."""
    return torch.sqrt((tensor**2).mean())
