"""A rule of the plain engine as one of the fast engine, for an optimizer that treats all elements
alike.
"""

from typing import Any

import torch

from pt_impl.fast.optimizers.step import Moments, Rate, Room, Rule, Step
from pt_impl.optimizers.from_rule import Rule as PlainRule

__all__ = ["plain_rule"]

Tensor = torch.Tensor


def plain_rule(rule: PlainRule) -> Rule:
    """The rule on vectors with a place for every parameter. Where only some decay, it is computed
    with and without.
    """

    def step(
        optimizer: Any,
        lr: Rate,
        update: int,
        parameter: Tensor,
        gradient: Tensor,
        moments: Moments,
        room: Room,
    ) -> Step:
        taken, after = rule(optimizer, lr, update, parameter, gradient, moments)
        if optimizer.decay_rate and optimizer.spec.decoupled and room.decayed is not None:
            undecayed = optimizer.with_knobs(weight_decay=0.0)
            other, _ = rule(undecayed, lr, update, parameter, gradient, moments)
            taken = torch.where(room.decayed > 0, taken, other)
        for slot, value in after.items():
            moments[slot].copy_(value)
        return Step(taken, has_rate=True, decay="done")

    return step
