"""NAdam and NAdamW: Adam that looks ahead along its momentum.

mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2), or beta1 without a ramp; with M the product of all
mu so far, the step is lr (mu_{t+1} / (1 - M mu_{t+1}) m + (1 - mu_t) / (1 - M) g) / (sqrt(v / (1 -
beta2^t)) + eps). Sources: Dozat, ICLR workshop 2016; `torch.optim.NAdam` 2.13.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.adam import stepped
from lockstep.oracle.optimizers.parts import bias, two_moments
from lockstep.recipe.optimizers.nadam import NAdam, NAdamW

__all__ = ["rule"]


def rule(
    optimizer: NAdam | NAdamW,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, both moments, and with a ramp the product of all momenta so
    far.
    """
    first, second = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments, exact)
    after = {"first": first, "second": second}
    now, following = (
        exact.constant(f"momentum {i}", _ramped(optimizer, update + 1 + i)) for i in range(2)
    )
    before = np.asarray(now**update)  # a power, which nobody need remember
    if optimizer.momentum_ramp:
        before = moments.get("momentum_product", np.ones(()))
    product = exact.round(np.atleast_2d(before) * now)
    if optimizer.momentum_ramp:  # a number, or one a member
        after["momentum_product"] = product if product.ndim > 2 else product[0, 0]
    ahead = exact.round(following / (1 - product * following) * first)
    here = exact.round((1 - now) / (1 - product) * gradient)
    corrected = exact.round(second / bias("beta2", optimizer.beta2, update, exact))
    root = np.sqrt(corrected) + optimizer.eps
    direction = exact.near((ahead + here) / root, (np.abs(ahead) + np.abs(here)) / root)
    return stepped(optimizer, lr, parameter, direction, exact), after


def _ramped(optimizer: NAdam | NAdamW, t: int) -> float:
    """beta1 at update t, counted from 1."""
    ramp = 1 - 0.5 * 0.96 ** (t * optimizer.momentum_decay) if optimizer.momentum_ramp else 1.0
    return float(optimizer.beta1 * ramp)
