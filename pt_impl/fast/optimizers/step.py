"""The arguments and results of the fast engine's rules.

A rule is (optimizer, lr, update, parameter, gradient, moments, room) -> `Step`. Vectors (n,) have a
place for every parameter of the network. `lr` is one number, or one for each place. The rule
changes the moments in place.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

__all__ = [
    "Moments",
    "Rate",
    "Room",
    "Rule",
    "Step",
    "add_decay",
    "norm",
    "root",
    "root_mean_square",
    "two_moments",
]

Tensor = torch.Tensor
Moments = dict[str, Tensor]
"""Slot -> vector, or one number for all; "slot/name" -> the rows or columns of one weight."""
Rate = Any
"""A number, or one for each place (n,)."""


class Step(NamedTuple):
    """The step is lr scale over / root; a root of None is 1."""

    over: Tensor
    root: Tensor | None = None
    scale: float = 1.0
    has_rate: bool = False
    """Whether `over` has the factor lr already."""
    decay: Literal["step", "factor", "done"] = "step"
    """A decoupled decay is a term of the step, a factor on the parameter, or in `over` already."""


class Room(NamedTuple):
    """The means of a rule beside its arguments."""

    work: Tensor
    """A vector to write on."""
    decayed: Tensor | None
    """1 where weight decay acts; None where it acts on all."""
    network: Any
    """The network of the fast engine."""

    def tensors(self, vector: Tensor) -> dict[str, Tensor]:
        """Canonical name -> its part (rows, columns) of a vector; a bias is one row.

        The vector lives as long as the network, which stores the parts.
        """
        place = vector.data_ptr()
        cache = self.network.tensors
        if place not in cache:
            axes = 2 + len(self.network.lead)
            parts = self.network.named(vector)
            for name, part in parts.items():
                parts[name] = part if part.ndim == axes else part.unsqueeze(-2)
            cache[place] = parts
        tensors: dict[str, Tensor] = cache[place]
        return tensors


Rule = Callable[[Any, Rate, int, Tensor, Tensor, Moments, Room], Step]


def add_decay(
    vector: Tensor, parameter: Tensor, decay: float, decayed: Tensor | None, out: Tensor
) -> Tensor:
    """vector + decay parameter, where weight decay acts."""
    if decayed is None:
        return torch.add(vector, parameter, alpha=decay, out=out)
    return torch.addcmul(vector, parameter, decayed, value=decay, out=out)


def two_moments(
    beta1: float, beta2: float, update: int, gradient: Tensor, moments: Moments
) -> tuple[Tensor, Tensor, float, float]:
    """Moving averages of the gradient and its square, and the two factors of bias correction."""
    first = moments["first"].lerp_(gradient, 1 - beta1)
    second = moments["second"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    return first, second, 1 - beta1 ** (update + 1), 1 - beta2 ** (update + 1)


def root(eps: float, in_root: bool, second: Tensor, out: Tensor) -> Tensor:
    """The root of a second moment, kept above 0 by eps."""
    if in_root:
        return torch.add(second, eps, out=out).sqrt_()
    return torch.sqrt(second, out=out).add_(eps)


def norm(part: Tensor) -> Tensor:
    """The 2-norm of each matrix (..., 1, 1)."""
    length: Tensor = torch.linalg.vector_norm(part, dim=(-2, -1), keepdim=True)
    return length


def root_mean_square(part: Tensor) -> Tensor:
    """The root mean square of each matrix (..., 1, 1)."""
    return norm(part).div_((part.shape[-2] * part.shape[-1]) ** 0.5)
