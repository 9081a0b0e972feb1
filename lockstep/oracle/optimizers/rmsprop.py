"""RMSprop: the gradient over the root of its mean square.

v <- decay v + (1 - decay) g^2; the step is lr g / (sqrt(v) + eps), with momentum a sum of such
steps. Sources: Tieleman & Hinton, lecture 6.5 (2012); centered: Graves, arXiv:1308.0850, equations
38 to 45.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import average, root
from lockstep.recipe.optimizers.rmsprop import RMSprop

__all__ = ["rule"]


def rule(
    optimizer: RMSprop,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, its second moment, and its first one and momentum where there
    are any.
    """
    second = average("decay", optimizer.decay, moments.get("second"), gradient**2, exact)
    after = {"second": second}
    if optimizer.centered:
        first = average("decay", optimizer.decay, moments.get("first"), gradient, exact)
        after["first"] = first
        second = exact.near(second - first**2, second)
    step = exact.round(gradient / root(optimizer.eps, optimizer.eps_in_root, second, exact))
    if optimizer.rate_in_momentum:
        step = exact.round(lr * step)
    if optimizer.momentum:
        momentum = exact.constant("momentum", optimizer.momentum)
        before = moments.get("momentum", np.zeros_like(step))
        step = exact.round(momentum * before + step)
        after["momentum"] = step
    if not optimizer.rate_in_momentum:
        step = exact.round(lr * step)
    return exact.round(parameter - step), after
