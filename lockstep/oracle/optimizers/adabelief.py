"""AdaBelief: Adam whose second moment is that of the gradient's distance from its mean.

m <- beta1 m + (1 - beta1) g, s <- beta2 s + (1 - beta2) (g - m)^2 + eps_root, both divided by 1 -
beta^t for their start at 0; the step is lr m / (sqrt(s) + eps). With nesterov m / (1 - beta1^t) is
beta1 m / (1 - beta1^(t+1)) + (1 - beta1) g / (1 - beta1^t). Sources: Zhuang et al.,
arXiv:2010.07468, algorithm 2, where eps and eps_root are one; `optax.adabelief` 0.2.8.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import average, bias
from lockstep.recipe.optimizers.adabelief import AdaBelief

__all__ = ["rule"]


def rule(
    optimizer: AdaBelief,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, and both moments."""
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    first = average("beta1", beta1, moments.get("first"), gradient, exact)
    distance = exact.round(gradient - first)
    second = average("beta2", beta2, moments.get("second"), distance**2, exact)
    second = exact.round(second + optimizer.eps_root)
    bias1, bias2 = bias("beta1", beta1, update, exact), bias("beta2", beta2, update, exact)
    if optimizer.nesterov:
        following = exact.round(first / bias("beta1", beta1, update + 1, exact))
        ahead = exact.round(exact.constant("beta1", beta1) * following)
        share = exact.constant("1 - beta1", 1 - beta1)
        here = exact.round(share * exact.round(gradient / bias1))
        direction = exact.round(ahead + here)
    else:
        direction = exact.round(first / bias1)
    root = exact.round(np.sqrt(exact.round(second / bias2))) + optimizer.eps
    step = exact.round(lr * exact.round(direction / root))
    return exact.round(parameter - step), {"first": first, "second": second}
