"""The float64 closed form of every learning-rate schedule: the one definition of each curve.

`t` is the update (or epoch) about to run, counted from 0; `W` the warmup and `T` the run, in the same unit.
Both frameworks are fed these numbers, rounded once to the recipe's precision.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.recipe import Recipe

__all__ = ["RAMPS", "cosine_decay", "learning_rates", "linear_warmup"]

Float64 = NDArray[np.float64]

RAMPS: dict[str, Callable[[Float64, int], Float64]] = {
    "(t+1)/W": lambda t, W: (t + 1) / W,  # first update peak/W, peak at t = W-1: torchtitan, Noam
    "t/W": lambda t, W: t / W,  # first update 0, peak at t = W: optax, Hugging Face, timm
    "(t+1)/(W+1)": lambda t, W: (t + 1) / (W + 1),  # nanoGPT
}


def linear_warmup(t: Float64, W: int, ramp: str) -> Float64:
    """Share of the peak at `t` (any shape): the ramp below W, 1 from W on.

    Example: `linear_warmup(np.arange(6.0), 5, "(t+1)/W")` is 0.2, 0.4, 0.6, 0.8, 1, 1.
    """
    if W == 0:
        return np.ones_like(t)
    return np.where(t < W, RAMPS[ramp](t, W), 1.0)


def cosine_decay(t: Float64, start: int, end: int, floor: float) -> Float64:
    """Share of the peak: 1 until `start`, then half a cosine to `floor` at `end`, `floor` after it.

    The formula is (1 + cos(pi p)) / 2 with p = (t - start) / (end - start) (Loshchilov & Hutter,
    arXiv:1608.03983, eq. 5), in its half-angle form: cos^2(pi p / 2), and in the second half
    sin^2(pi (1 - p) / 2) from the whole number end - t. The plain form loses the tail to cancellation.
    """
    if end <= start:
        return np.ones_like(t)
    length = end - start
    done = np.clip(t - start, 0, length)
    left = length - done
    falling = np.where(
        done <= left,
        np.cos(np.pi * done / (2 * length)) ** 2,
        np.sin(np.pi * left / (2 * length)) ** 2,
    )
    return floor + (1 - floor) * falling


def learning_rates(recipe: Recipe, updates_per_epoch: int) -> Float64:
    """The learning rate of every update of the run.

    Returns:
        float64, shape (T,) with T = epochs * updates_per_epoch, unit: parameter per gradient.

    Raises:
        InputError: a warmup, counted in updates, that is longer than the run.
    """
    schedule, epochs = recipe.schedule, recipe.training.epochs
    updates = epochs * updates_per_epoch
    end = epochs if schedule.unit == "epoch" else updates
    if recipe.warmup > end:
        raise InputError(
            f"schedule.warmup: {recipe.warmup} updates of warmup are longer than the run of {updates} updates "
            f"({epochs} epochs of {updates_per_epoch} updates)"
        )
    t = np.arange(end, dtype=np.float64)
    share = linear_warmup(t, recipe.warmup, schedule.ramp)
    if schedule.name == "warmup_cosine":
        share = np.where(t < recipe.warmup, share, cosine_decay(t, recipe.warmup, end, schedule.floor))
    rates = schedule.peak * share
    return np.repeat(rates, updates_per_epoch) if schedule.unit == "epoch" else rates
