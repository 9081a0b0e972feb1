"""The float64 closed form of the learning rate: a warmup times the `share` of the schedule.

`t` is the update (or epoch) about to run, counted from 0; `W` is the warmup and `T` the schedule's
end, in the same unit. Both frameworks are fed these numbers, rounded once to the recipe's dtype.
Each function but `learning_rates` gives a share of the peak, without unit, for a `t` of any shape.
"""

from collections.abc import Callable

import numpy as np

from lockstep.errors import InputError
from lockstep.recipe import Recipe, Schedule
from lockstep.recipe.schedules.constant import Constant
from lockstep.recipe.schedules.shapes import Float64, Phase, cosine_fall, sqrt_fall

__all__ = ["RAMPS", "exponential_warmup", "learning_rates", "linear_warmup", "shares"]

RAMPS: dict[str, Callable[[Float64, int], tuple[Float64, int]]] = {
    "(t+1)/W": lambda t, W: (t + 1, W),  # first update peak/W, peak at t = W-1: torchtitan, Noam
    "t/W": lambda t, W: (t, W),  # first update 0, peak at t = W: optax, Hugging Face, timm
    "(t+1)/(W+1)": lambda t, W: (t + 1, W + 1),  # nanoGPT
}
"""Ramp -> its numerator and denominator, for t and W."""


# ---- warmup


def linear_warmup(
    t: Float64,
    W: int,
    ramp: str,
    *,
    start: float = 0.0,
    shape: str = "linear",
    top: str | None = None,
) -> Float64:
    """start + (1 - start) f(r) below W, and 1 from W on.

    The ramp r is (t+1)/W, t/W or (t+1)/(W+1); with `top` = "W-1" the ramp t/W is t/(W-1). The
    function f is, by `shape`:

    - linear: r itself;
    - cosine: (1 - cos(pi r)) / 2;
    - 1-sqrt: 1 - sqrt(1 - r);
    - log: the logarithm of the ramp's numerator over that of its denominator;
    - constant: 0.

    PyTorch's `LinearLR(start, total_iters=W)` is the ramp t/W.

    Example: `linear_warmup(np.arange(6.0), 5, "(t+1)/W")` is 0.2, 0.4, 0.6, 0.8, 1, 1.
    """
    if W == 0:
        return np.ones_like(t)
    done, length = RAMPS[ramp](np.minimum(t, W), W)
    if top == "W-1":
        length = max(length - 1, 1)
    done = np.minimum(done, length)
    rise = RISES[shape](done, length)
    return np.where(t < W, start + (1 - start) * rise, 1.0)


def _log_rise(done: Float64, length: float) -> Float64:
    """log(done) / log(length), and 0 where `done` is 0 or 1."""
    whole = np.log(max(length, 2))
    return np.asarray(np.log(np.maximum(done, 1)) / whole)


RISES: dict[str, Callable[[Float64, float], Float64]] = {
    "linear": lambda done, length: done / length,
    "cosine": lambda done, length: cosine_fall(Phase(length - done, done, length)),
    "1-sqrt": lambda done, length: sqrt_fall(Phase(length - done, done, length)),
    "log": _log_rise,
    "constant": lambda done, length: np.zeros_like(done),
}
"""Shape of a warmup that ends -> its function of the ramp's numerator and denominator."""


def exponential_warmup(t: Float64, W: int, *, start: float = 0.0) -> Float64:
    """start + (1 - start) (1 - exp(-(t+1)/W)): 0.632 of the way at t = W-1, and never quite 1.

    Source: Ma & Yarats, arXiv:1910.04209, section 5.

    Example: `exponential_warmup(np.array([3.0]), 4)` is 0.632.
    """
    if W == 0:
        return np.ones_like(t)
    return start + (1 - start) * -np.expm1(-(t + 1) / W)


def shares(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    """Share of the peak at t: the warmup of length W times the schedule's share until T."""
    follows = schedule.share(t, W, T)
    if schedule.warmup_of != "schedule":
        warming = t <= W if schedule.edges == "megatron" and W else t < W
        follows = np.where(warming, schedule.first, follows)
    if isinstance(schedule, Constant) and schedule.edges in ("optax", "torch") and W == 0:
        return follows * schedule.warmup_start  # there a warmup of no length never ends
    if schedule.warmup_shape.endswith("exponential"):
        return follows * exponential_warmup(t, W, start=schedule.warmup_start)
    return follows * linear_warmup(
        t,
        W,
        schedule.ramp,
        start=schedule.warmup_start,
        shape=schedule.warmup_form,
        top=schedule.warmup_top,
    )


def learning_rates(recipe: Recipe, updates_per_epoch: int) -> Float64:
    """The learning rate of every update of the run.

    Returns:
        float64, shape (T,) with T = epochs * updates_per_epoch, unit: parameter per gradient.

    Raises:
        InputError: a warmup or a decay, counted in updates, that is longer than the run; or a rate
            beyond the dtype.
    """
    schedule = recipe.schedule
    epochs = recipe.training.epochs
    updates = epochs * updates_per_epoch
    end = epochs if schedule.unit == "epoch" else updates
    length = schedule.length or end
    run = f"the run of {updates} updates ({epochs} epochs of {updates_per_epoch} updates)"
    try:
        recipe.check_schedule(length, run)
    except ValueError as error:
        raise InputError(str(error)) from None
    if schedule.edges == "torchtitan" and recipe.warmup >= length < end - 1:
        raise InputError(
            f"schedule.warmup: torchtitan ends at T + 1 (AssertionError) where W = T = {length}"
        )
    t = np.arange(end, dtype=np.float64)
    with np.errstate(over="ignore"):  # a factor above 1 may overflow
        rates = schedule.peak * shares(schedule, t, recipe.warmup, length)
    if schedule.least_rate is not None:
        rates = np.maximum(rates, schedule.least_rate)
    largest = np.finfo(recipe.dtype).max
    is_beyond = rates > largest
    if is_beyond.any() and schedule.peak <= largest:
        raise InputError(
            f"schedule.factor: the learning rate is beyond {recipe.training.dtype} from "
            f"{schedule.unit} {int(is_beyond.argmax())} on"
        )
    return np.repeat(rates, updates_per_epoch) if schedule.unit == "epoch" else rates
