"""One update of one parameter, by the optimizer that the recipe names."""

from dataclasses import replace
from functools import cache

from lockstep.oracle.adam_like import RULES as ADAM_LIKE
from lockstep.oracle.arithmetic import Array, Exact, Moments, Rule
from lockstep.oracle.other_optimizers import RULES as OTHERS
from lockstep.oracle.other_optimizers import WEIGHT_RULES
from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import DECOUPLED, decays, is_weight

__all__ = ["RULES", "update_parameter"]

RULES: dict[str, Rule] = ADAM_LIKE | OTHERS
"""Optimizer -> its rule."""


def update_parameter(
    name: str,
    optimizer: Optimizer,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> Array:
    """The parameter after one update; `moments` (empty before the first) is changed in place.

    Args:
        name: of the parameter; says whether it decays.
        optimizer: its hyperparameters.
        lr: learning rate of this update and parameter.
        update: counted from 0.
        parameter: any shape, as `gradient`.
        gradient: of the loss, before weight decay.
        moments: what the optimizer remembers of this parameter.
        exact: the arithmetic.
    """
    optimizer = _as_seen_by(optimizer, decays(optimizer, name))
    if optimizer.weight_decay and optimizer.name not in DECOUPLED:
        decay = exact.constant("weight_decay", optimizer.weight_decay)
        gradient = exact.round(gradient + exact.round(decay * parameter))
    rules = RULES | WEIGHT_RULES if is_weight(name) else RULES
    return rules[optimizer.name](optimizer, lr, update, parameter, gradient, moments, exact)


@cache
def _as_seen_by(optimizer: Optimizer, decayed: bool) -> Optimizer:
    """What a rule reads of the optimizer for a parameter that decays or does not."""
    return optimizer if decayed or not optimizer.weight_decay else replace(optimizer, weight_decay=0.0)
