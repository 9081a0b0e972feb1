"""Adagrad: every element has a learning rate that falls with its squared gradients so far.

v <- v + g^2; the step is lr / (1 + t lr_decay) g / (sqrt(v) + eps). Source: Duchi, Hazan & Singer,
JMLR 12 (2011), the diagonal form.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import root
from lockstep.recipe.optimizers.adagrad import Adagrad

__all__ = ["rule"]


def rule(
    optimizer: Adagrad,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, and the sum of its squared gradients."""
    start = exact.constant("initial_accumulator", optimizer.initial_accumulator)
    before = moments.get("second", np.zeros_like(gradient) + start)
    second = exact.round(before + exact.round(gradient**2))
    slowed = exact.round(1 + update * np.asarray(exact.constant("lr_decay", optimizer.lr_decay)))
    rate = exact.round(lr / slowed)
    direction = exact.round(gradient / root(optimizer.eps, optimizer.eps_in_root, second, exact))
    return exact.round(parameter - exact.round(rate * direction)), {"second": second}
