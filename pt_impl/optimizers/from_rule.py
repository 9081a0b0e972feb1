"""An optimizer from its rule, where the framework has none with the recipe's knobs."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.recipe import Optimizer

__all__ = ["FromRule", "Groups", "Moments", "Rule", "Start", "from_rule"]

Groups = list[dict[str, Any]]
"""Parameter groups of `torch.optim`, each with its learning rate and weight decay."""
Moments = dict[str, torch.Tensor]
"""Slot, by its canonical name -> what is remembered of one parameter."""
Start = Callable[[Any, torch.Tensor], Moments]
"""(optimizer, parameter) -> its moments before the first update."""
Rule = Callable[
    [Any, float, int, torch.Tensor, torch.Tensor, Moments], tuple[torch.Tensor, Moments]
]
"""(optimizer, lr, update, parameter, gradient, moments) -> what to subtract from the parameter, and
its new moments.

`update` is counted from 0. L2 decay is in the gradient. A decoupled decay is the rule's own:
`optimizer.weight_decay`, which is 0 for a parameter that does not decay."""


def from_rule(optimizer: Optimizer, groups: Groups, start: Start, rule: Rule) -> "FromRule":
    """The optimizer that does what `rule` says to each parameter."""
    return FromRule(optimizer, groups, start, rule)


class FromRule(torch.optim.Optimizer):
    """An optimizer by its rule; the state of a parameter is its moments, and `step`, the updates
    done.
    """

    def __init__(self, optimizer: Optimizer, groups: Groups, start: Start, rule: Rule) -> None:
        super().__init__(groups, {"lr": 1.0, "weight_decay": 0.0})
        self.optimizer, self.start, self.rule = optimizer, start, rule
        self.undecayed = (
            optimizer.with_knobs(weight_decay=0.0) if optimizer.decay_rate else optimizer
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # without a result: no closure is asked for
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            optimizer = self.optimizer if decay else self.undecayed
            for parameter in group["params"]:
                gradient, moments = parameter.grad, self.state[parameter]
                if gradient is None:
                    continue
                if not moments:
                    moments.update(self.start(optimizer, parameter), step=torch.zeros(()))
                if decay and not optimizer.spec.decoupled:
                    gradient = gradient + decay * parameter
                step, after = self.rule(
                    optimizer, lr, int(moments["step"]), parameter, gradient, moments
                )
                moments.update(after, step=moments["step"] + 1)
                parameter.sub_(step)
