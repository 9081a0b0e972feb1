"""Signum: a step by the sign of a mean of the gradient.

m <- momentum m + (1 - momentum) g; the step is lr sign(m). Source: Bernstein et al.,
arXiv:1802.04434, algorithm 2.
"""

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import average
from lockstep.recipe.optimizers.signum import Signum

__all__ = ["rule"]


def rule(
    optimizer: Signum,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, and the mean of the gradient."""
    mean = average("momentum", optimizer.momentum, moments.get("mean"), gradient, exact)
    return exact.round(parameter - exact.round(lr * exact.sign(mean))), {"mean": mean}
