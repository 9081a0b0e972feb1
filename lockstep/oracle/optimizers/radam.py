"""RAdam: Adam without its second moment until that is worth something.

With rho = 2 / (1 - beta2) - 1 - 2 t beta2^t / (1 - beta2^t), the step is lr m / (1 - beta1^t) up to
rho = 5, and from there on Adam's times a factor that grows to 1. Source: Liu et al.,
arXiv:1908.03265, algorithm 2; `torch.optim.RAdam` 2.13 adds eps to the root of the raw second
moment, Optax 0.2.8 to that of the corrected one.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import bias, two_moments
from lockstep.recipe.optimizers.radam import RAdam

__all__ = ["rule"]


def rule(
    optimizer: RAdam,
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
    direction = exact.round(first / bias("beta1", optimizer.beta1, update, exact))
    t = update + 1
    beta2 = optimizer.beta2
    longest = 2 / (1 - beta2) - 1
    rho = longest - 2 * t * beta2**t / (1 - beta2**t)
    if rho > 5:
        bias2 = bias("beta2", beta2, update, exact)
        # rho is a small difference of numbers as large as `longest`
        length = exact.near(np.full((1, 1), rho), longest)
        numerator = (length - 4) * (length - 2) * longest
        shrunk = numerator / ((longest - 4) * (longest - 2) * length)
        if optimizer.eps_corrected:
            root = np.sqrt(exact.round(second / bias2)) + optimizer.eps
        else:
            root = (np.sqrt(second) + optimizer.eps) / np.sqrt(bias2)
        direction = exact.round(np.sqrt(shrunk) * direction / root)
    return exact.round(parameter - exact.round(lr * direction)), after
