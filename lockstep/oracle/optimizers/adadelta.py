"""Adadelta: steps in the unit of the parameter.

v <- decay v + (1 - decay) g^2; d = sqrt(u + eps) / sqrt(v + eps) g; u <- decay u + (1 - decay) d^2;
the step is lr d. Source: Zeiler, arXiv:1212.5701, algorithm 1, with a learning rate.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import average
from lockstep.recipe.optimizers.adadelta import Adadelta

__all__ = ["rule"]


def rule(
    optimizer: Adadelta,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, and the second moments of its gradient and of its steps."""
    eps = optimizer.eps
    before = moments.get("update_second", np.zeros_like(gradient))
    second = average("decay", optimizer.decay, moments.get("second"), gradient**2, exact)
    ratio = exact.round(np.sqrt(exact.round(before + eps)) / np.sqrt(exact.round(second + eps)))
    direction = exact.round(ratio * gradient)
    after = {
        "second": second,
        "update_second": average("decay", optimizer.decay, before, direction**2, exact),
    }
    return exact.round(parameter - exact.round(lr * direction)), after
