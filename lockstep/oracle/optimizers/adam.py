"""Adam and AdamW.

m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2, both divided by 1 - beta^t for their
start at 0; the step is lr m / (sqrt(v) + eps). amsgrad divides by the largest v so far. Sources:
Kingma & Ba, arXiv:1412.6980, algorithm 1; Reddi, Kale & Kumar, arXiv:1904.09237, algorithm 2;
Loshchilov & Hutter, arXiv:1711.05101, algorithm 2.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import bias, decayed, two_moments
from lockstep.recipe import Optimizer
from lockstep.recipe.optimizers.adam import Adam, AdamW

__all__ = ["rule", "stepped"]


def rule(
    optimizer: Adam | AdamW,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, and both moments; with amsgrad the largest second one too."""
    first, second = two_moments(optimizer.beta1, optimizer.beta2, gradient, moments, exact)
    after = {"first": first, "second": second}
    first = exact.round(first / bias("beta1", optimizer.beta1, update, exact))
    bias2 = bias("beta2", optimizer.beta2, update, exact)
    if optimizer.amsgrad == "raw":
        second = np.maximum(moments.get("largest_second", second), second)
        after["largest_second"] = second
    second = exact.round(second / bias2)
    if optimizer.amsgrad == "corrected":
        second = np.maximum(moments.get("largest_second", second), second)
        after["largest_second"] = second
    inside, outside = (optimizer.eps, 0.0) if optimizer.eps_in_root else (0.0, optimizer.eps)
    root = np.sqrt(second + inside) + outside
    return stepped(optimizer, lr, parameter, exact.round(first / root), exact), after


def stepped(
    optimizer: Optimizer, lr: float, parameter: Array, direction: Array, exact: Exact
) -> Array:
    """The parameter less lr direction; a decoupled decay is a factor on it, or a part of the
    direction.
    """
    decay = optimizer.decay_rate
    form = optimizer.get("decay_form")
    if decay and form == "factor":
        parameter = decayed(decay, lr, parameter, exact)
    elif decay and form == "step":
        direction = exact.round(direction + exact.round(decay * parameter))
    return exact.round(parameter - exact.round(lr * direction))
