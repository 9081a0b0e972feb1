"""Adafactor: a second moment in as many numbers as a weight has rows and columns.

At update t, counted from 1, share = t^-decay_power; row and column <- (1 - share) of themselves +
share of the mean of g^2 along the other axis; v = row column / mean(row). The step is lr
max(eps_scale, rms(parameter)) d with d = g / sqrt(v), scaled to a root mean square of at most
clip_threshold. Source: Shazeer & Stern, arXiv:1804.04235, algorithm 4; the details are the
libraries' (`torch.optim.Adafactor` 2.13, `optax.adafactor` 0.2.8).
"""

from typing import Any

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.optimizers.parts import decayed, root_mean_square
from lockstep.recipe.optimizers.adafactor import Adafactor

__all__ = ["rule", "weight_rule"]


def rule(
    optimizer: Adafactor,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The rule of a bias, a normalisation or a small weight: the second moment is whole."""
    square, share = _square(optimizer, gradient, exact), _share(optimizer, update, exact)
    second = _mix(moments.get("second"), square, share, exact)
    return _after(optimizer, lr, update, parameter, gradient, second, exact), {"second": second}


def weight_rule(
    optimizer: Adafactor,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The rule of a weight with enough rows and columns: the second moment is factored."""
    if min(gradient.shape[-2:]) < optimizer.min_factored:
        return rule(optimizer, lr, update, parameter, gradient, moments, exact)
    square, share = _square(optimizer, gradient, exact), _share(optimizer, update, exact)
    mean = exact.round(square.mean(-1, keepdims=True))
    row = _mix(moments.get("row"), mean, share, exact)
    mean = exact.round(square.mean(-2, keepdims=True))
    column = _mix(moments.get("column"), mean, share, exact)
    # the mean over the rows and the mean over the columns are one number, to rounding
    mean = exact.round(row.mean(-2, keepdims=True))
    if not optimizer.eps_in_root:
        mean = np.maximum(mean, optimizer.eps)
    second = exact.round(exact.round(row / mean) * column)
    after = _after(optimizer, lr, update, parameter, gradient, second, exact)
    return after, {"row": row, "column": column}


def _square(optimizer: Adafactor, gradient: Array, exact: Exact) -> Array:
    return exact.round(gradient**2 + (optimizer.eps if optimizer.eps_in_root else 0.0))


def _share(optimizer: Adafactor, update: int, exact: Exact) -> Any:
    """The weight of the newest square: (update + 1)^-decay_power."""
    share = np.asarray((update + 1.0) ** -optimizer.decay_power)
    # the rounding of the power counts log(update + 1) times
    return exact.near(share, share * (1 + optimizer.decay_power * np.log(update + 1.0)))


def _mix(before: Array | None, value: Array, share: Any, exact: Exact) -> Array:
    """(1 - share) before + share value; at the first update the share is 1."""
    if before is None:
        return exact.round(value)
    return exact.round((1 - share) * before + share * value)


def _after(
    optimizer: Adafactor,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    second: Array,
    exact: Exact,
) -> Array:
    """The parameter after the update."""
    if not optimizer.eps_in_root:
        second = np.maximum(second, optimizer.eps**2)
    direction = exact.round(gradient / exact.round(np.sqrt(second)))
    threshold = exact.constant("clip_threshold", optimizer.clip_threshold)
    excess = exact.round(root_mean_square(direction, exact) / threshold)
    direction = exact.round(direction / np.maximum(excess, 1.0))
    rate = exact.round(np.asarray(min(lr, (update + 1) ** -0.5))) if optimizer.rate_cap else lr
    scale = np.maximum(
        root_mean_square(parameter, exact), exact.constant("eps_scale", optimizer.eps_scale)
    )
    step = exact.round(exact.round(scale * rate) * direction)
    return exact.round(decayed(optimizer.weight_decay, lr, parameter, exact) - step)
