"""One update of one parameter, by the optimizer that the recipe names."""

from functools import cache

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers import RULES, WEIGHT_RULES
from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import decays, is_weight

__all__ = ["update_parameter"]


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
        parameter: any shape.
        gradient: of the loss, before weight decay; shaped as `parameter`.
        moments: what the optimizer remembers of this parameter.
        exact: the arithmetic.
    """
    optimizer = _for_parameter(optimizer, decays(optimizer, name))
    if optimizer.decay_rate and not optimizer.spec.decoupled:
        decay = exact.constant("weight_decay", optimizer.decay_rate)
        gradient = exact.round(gradient + exact.round(decay * parameter))
    rule = RULES[optimizer.name]
    if is_weight(name):
        rule = WEIGHT_RULES.get(optimizer.name, rule)
    after, moments_after = rule(optimizer, lr, update, parameter, gradient, moments, exact)
    moments.update(moments_after)
    return after


@cache
def _for_parameter(optimizer: Optimizer, decayed: bool) -> Optimizer:
    """The optimizer of a parameter that decays or does not."""
    if decayed or not optimizer.decay_rate:
        return optimizer
    return optimizer.with_knobs(weight_decay=0.0)
