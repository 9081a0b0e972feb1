"""LAMB: Adam whose step has, in every tensor, a length in proportion to that of the parameter.

r = m / (sqrt(v) + eps) + weight_decay parameter, both moments corrected; the step is lr |parameter|
/ |r| r. A tensor or a step of norm 0 has the ratio 1. Source: You et al., arXiv:1904.00962,
algorithm 2, with phi the identity.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import bias, norm, two_moments
from lockstep.recipe.optimizers.lamb import Lamb

__all__ = ["rule"]


def rule(
    optimizer: Lamb,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, and both moments."""
    first, second = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments, exact)
    after = {"first": first, "second": second}
    first = exact.round(first / bias("beta1", optimizer.beta1, update, exact))
    second = exact.round(second / bias("beta2", optimizer.beta2, update, exact))
    direction = exact.round(first / (np.sqrt(second) + optimizer.eps))
    direction = exact.round(direction + optimizer.weight_decay * parameter)
    length = norm(parameter, exact)
    step_length = norm(direction, exact)
    usable = (length > 0) & (step_length > 0)
    ratio = np.where(usable, length / np.where(usable, step_length, 1.0), 1.0)
    return exact.round(parameter - exact.round(lr * exact.round(ratio * direction))), after
