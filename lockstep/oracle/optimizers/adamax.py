"""Adamax: Adam whose second moment is an infinity norm.

u <- max(beta2 u, |g| + eps); the step is lr m / (1 - beta1^t) / u. Sources: Kingma & Ba,
arXiv:1412.6980, algorithm 2; `torch.optim.Adamax` 2.13, which adds eps to |g|.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import average, bias
from lockstep.recipe.optimizers.adamax import Adamax

__all__ = ["rule"]


def rule(
    optimizer: Adamax,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, its first moment and infinity norm."""
    first = average("beta1", optimizer.beta1, moments.get("first"), gradient, exact)
    before = moments.get("infinity", np.zeros_like(gradient))
    shrunk = exact.round(exact.constant("beta2", optimizer.beta2) * before)
    infinity = np.maximum(shrunk, exact.round(np.abs(gradient) + optimizer.eps))
    corrected = exact.round(first / bias("beta1", optimizer.beta1, update, exact))
    step = exact.round(lr * exact.round(corrected / infinity))
    return exact.round(parameter - step), {"first": first, "infinity": infinity}
