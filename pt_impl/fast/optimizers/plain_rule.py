"""A rule of the plain engine in the fast engine, for an optimizer that treats elements alike."""

from typing import Any

import torch

from pt_impl.fast.optimizers.step import Moments, Rate, Room, Rule, Step
from pt_impl.optimizers.from_rule import Rule as PlainRule

__all__ = ["plain_rule"]

Tensor = torch.Tensor


def plain_rule(rule: PlainRule) -> Rule:
    """The rule on vectors with a place for every parameter.

    If only some parameters decay, it is computed with and without decay.
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
        change, after = rule(optimizer, lr, update, parameter, gradient, moments)
        if optimizer.decay_rate and optimizer.spec.decoupled and room.decayed is not None:
            undecayed = optimizer.with_knobs(weight_decay=0.0)
            undecayed_change, _ = rule(undecayed, lr, update, parameter, gradient, moments)
            change = torch.where(room.decayed > 0, change, undecayed_change)
        for slot, value in after.items():
            moments[slot].copy_(value)
        return Step(change, has_rate=True, decay="done")

    return step
