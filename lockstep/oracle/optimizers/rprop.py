"""Rprop: a step size for every element, which grows while its gradient keeps its sign.

size <- size times grow where g keeps the sign of the gradient before, times shrink where it turned,
within step_min and step_max; the step is sign(g) size. A gradient that turned counts as 0, now and
at the next update. Sources: Riedmiller & Braun, ICNN 1993; `torch.optim.Rprop` 2.13, which takes no
step back.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.recipe.optimizers.rprop import Rprop

__all__ = ["rule"]


def rule(
    optimizer: Rprop,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, its step sizes and the gradient as it counts."""
    sign = exact.sign(gradient)
    agreement = sign * np.sign(moments.get("previous", np.zeros_like(gradient)))
    shrink = exact.constant("shrink", optimizer.shrink)
    grow = exact.constant("grow", optimizer.grow)
    factor = np.where(agreement > 0, grow, np.where(agreement < 0, shrink, 1.0))
    size = exact.round(moments.get("step_size", np.full_like(gradient, lr)) * factor)
    least = exact.constant("step_min", optimizer.step_min)
    most = exact.constant("step_max", optimizer.step_max)
    size = np.clip(size, least, most)
    sign = np.where(agreement < 0, 0.0, sign)
    # the sign as it was drawn is the one that the next update meets
    previous = sign * np.abs(gradient)
    return exact.round(parameter - sign * size), {"step_size": size, "previous": previous}
