"""Lion: a step by the sign of the momentum.

c = beta1 m + (1 - beta1) g, m <- beta2 m + (1 - beta2) g; the step is lr (sign(c) + weight_decay
parameter). Source: Chen et al., arXiv:2302.06675, program 1.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import average
from lockstep.recipe.optimizers.lion import Lion

__all__ = ["rule"]


def rule(
    optimizer: Lion,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, and its first moment."""
    before = moments.get("first", np.zeros_like(gradient))
    mixed = average("beta1", optimizer.beta1, before, gradient, exact)
    after = {"first": average("beta2", optimizer.beta2, before, gradient, exact)}
    direction = exact.sign(mixed)
    if optimizer.weight_decay:
        direction = exact.round(direction + exact.round(optimizer.weight_decay * parameter))
    return exact.round(parameter - exact.round(lr * direction)), after
