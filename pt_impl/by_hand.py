"""Optimizers by their rule, where no class of the framework can express the recipe's knobs."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import DECOUPLED

__all__ = ["by_hand"]


def by_hand(start: Callable[..., Any], rule: Callable[..., Any]) -> Callable[..., Any]:
    """A maker of an optimizer, from what it does to one parameter.

    Args:
        start: (optimizer, parameter) -> its moments before the first update, by their canonical names.
        rule: (optimizer, lr, update, parameter, gradient, moments) -> what to subtract from the parameter, and its
            new moments; `update` is counted from 0. Weight decay is none of its business.
    """

    def make(optimizer: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return _ByHand(optimizer, groups, start, rule)

    return make


class _ByHand(torch.optim.Optimizer):
    def __init__(
        self, optimizer: Optimizer, groups: list[dict[str, Any]], start: Callable[..., Any], rule: Callable[..., Any]
    ) -> None:
        super().__init__(groups, {})
        self.optimizer, self.start, self.rule = optimizer, start, rule

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # without a result: no closure is asked for
        decoupled = self.optimizer.name in DECOUPLED
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for parameter in group["params"]:
                gradient, moments = parameter.grad, self.state[parameter]
                if not moments:
                    moments.update(self.start(self.optimizer, parameter), step=torch.zeros(()))
                update = int(moments["step"])
                if decay and not decoupled:
                    gradient = gradient + decay * parameter
                step, changed = self.rule(self.optimizer, lr, update, parameter, gradient, moments)
                if decay and decoupled:
                    step = step + lr * decay * parameter
                moments.update(changed, step=moments["step"] + 1)
                parameter.sub_(step)
