"""An optimizer from its rule, where the framework has none with the recipe's knobs."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.recipe import Optimizer

__all__ = ["FromRule", "Groups", "Moments", "Rule", "Start", "from_rule"]

Groups = list[dict[str, Any]]
"""Parameter groups of `torch.optim`, each with its learning rate and weight decay."""
Moments = dict[str, torch.Tensor]
"""Canonical name of a slot -> its tensor for one parameter."""
Start = Callable[[Any, torch.Tensor], Moments]
"""(optimizer, parameter) -> its moments before the first update."""
Rule = Callable[
    [Any, float, int, torch.Tensor, torch.Tensor, Moments], tuple[torch.Tensor, Moments]
]
"""(optimizer, lr, update, parameter, gradient, moments) -> step to subtract, and new moments.

`update` is counted from 0. The gradient has L2 decay in it already. The rule applies a decoupled
decay itself: `optimizer.weight_decay`, which is 0 for a parameter that does not decay."""


def from_rule(optimizer: Optimizer, groups: Groups, start: Start, rule: Rule) -> "FromRule":
    """The optimizer that applies `rule` to each parameter."""
    return FromRule(optimizer, groups, start, rule)


class FromRule(torch.optim.Optimizer):
    """An optimizer by its rule; a parameter's state is its moments and `step`, the update count."""

    def __init__(self, optimizer: Optimizer, groups: Groups, start: Start, rule: Rule) -> None:
        super().__init__(groups, {"lr": 1.0, "weight_decay": 0.0})
        self.optimizer = optimizer
        self.undecayed = (
            optimizer.with_knobs(weight_decay=0.0) if optimizer.decay_rate else optimizer
        )
        self.start = start
        self.rule = rule

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # no result: no closure is called
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            lr = group["lr"]
            decay = group["weight_decay"]
            optimizer = self.optimizer if decay else self.undecayed
            for parameter in group["params"]:
                gradient = parameter.grad
                moments = self.state[parameter]
                if gradient is None:
                    continue
                if not moments:
                    moments.update(self.start(optimizer, parameter), step=torch.zeros(()))
                if decay and not optimizer.spec.decoupled:
                    gradient = gradient + decay * parameter
                update = int(moments["step"])
                step, after = self.rule(optimizer, lr, update, parameter, gradient, moments)
                moments.update(after, step=moments["step"] + 1)
                parameter.sub_(step)
