"""The float64 closed form of every learning-rate schedule: the one definition of each curve.

`t` is the update (or epoch) about to run, counted from 0; `W` the warmup and `T` the schedule's end, in the same unit.
Both frameworks are fed these numbers, rounded once to the recipe's precision. Every function gives a share of the
peak, without unit, for a `t` of any shape. What is left until the end is taken from whole numbers and not as 1 minus
what is done: so the last updates keep all their digits.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.recipe import Recipe, Schedule

__all__ = [
    "FALLS",
    "RAMPS",
    "SCHEDULES",
    "Phase",
    "cosine_fall",
    "cosine_restarts",
    "exponential_decay",
    "exponential_warmup",
    "inverse_sqrt_decay",
    "learning_rates",
    "linear_fall",
    "linear_warmup",
    "one_cycle",
    "phase",
    "shares",
    "sqrt_fall",
]

Float64 = NDArray[np.float64]

RAMPS: dict[str, Callable[[Float64, int], tuple[Float64, int]]] = {
    "(t+1)/W": lambda t, W: (t + 1, W),  # first update peak/W, peak at t = W-1: torchtitan, Noam
    "t/W": lambda t, W: (t, W),  # first update 0, peak at t = W: optax, Hugging Face, timm
    "(t+1)/(W+1)": lambda t, W: (t + 1, W + 1),  # nanoGPT
}
"""The ramps, as numerator and denominator."""


class Phase(NamedTuple):
    """A stretch of time at each t: what is done of it, what is left, and its length."""

    done: Float64
    left: Float64
    length: float


def phase(t: Float64, start: float, end: float, *, hold: bool = True) -> Phase:
    """The phase from `start` to `end`; `hold`: it stays at its end, else it goes on.

    A phase without length is over at `end`. Example: `phase(np.array([0.0, 4, 9]), 2, 6)` has done 0, 2, 4 and left
    4, 2, 0.
    """
    if end <= start:
        over = (t >= end).astype(np.float64)
        return Phase(over, 1 - over, 1.0)
    length = end - start
    most = length if hold else np.inf
    return Phase(np.clip(t - start, 0, most), np.clip(end - t, -most + length, length), length)


# ---- warmup


def linear_warmup(t: Float64, W: int, ramp: str, *, start: float = 0.0, cosine: bool = False) -> Float64:
    """The ramp from `start` below W, 1 from W on.

    The formula is start + (1 - start) r with r = (t+1)/W, t/W or (t+1)/(W+1); `cosine` puts (1 - cos(pi r)) / 2 in the
    place of r. PyTorch's `LinearLR(start, total_iters=W)` is the ramp t/W.

    Example: `linear_warmup(np.arange(6.0), 5, "(t+1)/W")` is 0.2, 0.4, 0.6, 0.8, 1, 1.
    """
    if W == 0:
        return np.ones_like(t)
    done, length = RAMPS[ramp](np.minimum(t, W), W)
    risen = cosine_fall(Phase(length - done, done, length)) if cosine else done / length
    return np.where(t < W, start + (1 - start) * risen, 1.0)


def exponential_warmup(t: Float64, W: int, *, start: float = 0.0) -> Float64:
    """start + (1 - start) (1 - exp(-(t+1)/W)): 0.632 of the way at t = W-1, and never quite 1.

    Source: Ma & Yarats, arXiv:1910.04209, section 5. Example: `exponential_warmup(np.array([3.0]), 4)` is 0.632.
    """
    if W == 0:
        return np.ones_like(t)
    return start + (1 - start) * -np.expm1(-(t + 1) / W)


# ---- falls: from 1 to 0 within a phase


def linear_fall(p: Phase) -> Float64:
    """1 - done/length; below 0 after the end of a phase that goes on.

    Example: `linear_fall(phase(np.arange(5.0), 0, 4))` is 1, 0.75, 0.5, 0.25, 0.
    """
    return p.left / p.length


def cosine_fall(p: Phase) -> Float64:
    """(1 + cos(pi done/length)) / 2; up and down again after the end of a phase that goes on.

    In its half-angle form: cos^2(pi/2 done/length), and in the second half sin^2(pi/2 left/length). The plain form
    loses the tail to cancellation. Source: Loshchilov & Hutter, arXiv:1608.03983, eq. 5.

    Example: `cosine_fall(phase(np.array([0.0, 2, 4]), 0, 4))` is 1, 0.5, 0.
    """
    done, left = p.done, p.left
    if (left < 0).any():  # folded back into the phase, which the curve goes through to and fro
        done = np.abs(np.fmod(done + p.length, 2 * p.length) - p.length)
        left = p.length - done
    quarter = np.pi / (2 * p.length)
    return np.asarray(np.where(done <= left, np.cos(quarter * done) ** 2, np.sin(quarter * left) ** 2))


def sqrt_fall(p: Phase) -> Float64:
    """1 - sqrt(done/length), as left/length / (1 + sqrt(done/length)).

    Source: Hägele et al., arXiv:2405.18392. Example: `sqrt_fall(phase(np.arange(5.0), 0, 4))[1]` is 0.5.
    """
    return np.asarray(p.left / p.length / (1 + np.sqrt(p.done / p.length)))


FALLS: dict[str, Callable[[Phase], Float64]] = {"linear": linear_fall, "1-sqrt": sqrt_fall, "cosine": cosine_fall}
"""The shapes of a decay, by name."""


def _between(low: float, high: float, share: Float64) -> Float64:
    return low + (high - low) * share


# ---- what follows the warmup


def inverse_sqrt_decay(t: Float64, start: float, timescale: float) -> Float64:
    """1 until `start`, then sqrt(timescale / (timescale + t - start)).

    Sources: Vaswani et al., arXiv:1706.03762, section 5.3, where timescale = W and start = W-1; Raffel et al.,
    arXiv:1910.10683, section 3.1.2.

    Example: `inverse_sqrt_decay(np.array([4.0, 16]), 4, 4)` is 1, 0.5.
    """
    return np.sqrt(timescale / (timescale + np.maximum(t - start, 0)))


def exponential_decay(t: Float64, start: int, factor: float, every: int, *, staircase: bool = False) -> Float64:
    """1 until `start`, then factor^((t - start) / every), with the quotient rounded down where `staircase`.

    Sources: torch 2.13 `ExponentialLR`, `StepLR`; optax 0.2.8 `exponential_decay`.

    Example: `exponential_decay(np.array([4.0, 6]), 2, 0.5, 2)` is 0.5, 0.25.
    """
    whole, rest = np.divmod(np.maximum(t - start, 0), every)
    stairs = np.power(factor, whole)
    return stairs if staircase else stairs * np.power(factor, rest / every)


def one_cycle(schedule: Schedule, t: Float64, T: int) -> Float64:
    """From `first` to 1, then to `floor`: in two phases, or, with `fall`, in three by way of `first`.

    The phases end at rise T - 1, fall T - 2 and T - 1 (torch 2.13 `OneCycleLR`), or at int(rise T), int(fall T) and T
    (optax 0.2.8 `cosine_onecycle_schedule`, `linear_onecycle_schedule`). Source: Smith & Topin, arXiv:1708.07120.
    """
    if schedule.decay_end == "T-1":
        ends = [schedule.rise * T - 1, schedule.fall * T - 2, T - 1.0]
    else:
        ends = [float(int(schedule.rise * T)), float(int(schedule.fall * T)), float(T)]
    values = [schedule.first, 1.0, schedule.first, schedule.floor]
    if not schedule.fall:
        del ends[1], values[2]
    share = np.full_like(t, schedule.floor)
    for i in reversed(range(len(ends))):
        start = ends[i - 1] if i else 0.0
        found = _anneal(phase(t, start, ends[i]), values[i], values[i + 1], FALLS[schedule.anneal])
        share = np.where(t <= ends[i], found, share)
    return share


def _anneal(p: Phase, begin: float, end: float, fall: Callable[[Phase], Float64]) -> Float64:
    if begin > end:
        return _between(end, begin, fall(p))
    return _between(begin, end, fall(Phase(p.left, p.done, p.length)))


def cosine_restarts(
    t: Float64, first: int, growth: int, cycles: int | None, *, parts: int = 1, floor: float = 0.0, decay: float = 1.0
) -> Float64:
    """Half cosines from decay^k to `floor`, one after the other; the cycle k has the length first growth^k / parts.

    After the last of `cycles` the floor holds; None is cycles without end. Source: Loshchilov & Hutter,
    arXiv:1608.03983, eq. 5; torch 2.13 `CosineAnnealingWarmRestarts` has no end, timm 1.0 `CosineLRScheduler` has.

    Example: `cosine_restarts(np.array([0.0, 2, 4, 6, 8]), 4, 1, 2)` is 1, 0.5, 1, 0.5, 0.
    """
    t = np.maximum(t, 0) * parts  # whole numbers stay exact where cycles begin between two updates
    starts, length = [0], first
    while starts[-1] <= t.max(initial=0) and (cycles is None or len(starts) <= cycles):
        starts.append(starts[-1] + length)
        length *= growth
    edges = np.array(starts, dtype=np.float64)
    k = np.minimum(np.searchsorted(edges, t, side="right") - 1, len(edges) - 2)
    done, left, lengths = t - edges[k], edges[k + 1] - t, np.diff(edges)[k]
    quarter = np.pi / (2 * lengths)
    falling = np.where(done <= left, np.cos(quarter * done) ** 2, np.sin(quarter * np.maximum(left, 0)) ** 2)
    return floor + (np.power(decay, k) - floor) * falling


def _start(schedule: Schedule, W: int) -> int:
    return {"W": W, "W-1": W - 1, "0": 0}[schedule.decay_start]


def _end(schedule: Schedule, T: int) -> int:
    return T - (schedule.decay_end == "T-1")


def _constant(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    return np.ones_like(t)


def _fall(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    hold = schedule.after_end == "hold"
    p = phase(t, _start(schedule, W), _end(schedule, T), hold=hold)
    return _between(schedule.floor, 1.0, FALLS[schedule.name](p))


def _polynomial(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    p = phase(t, _start(schedule, W), _end(schedule, T))
    return _between(schedule.floor, 1.0, np.power(linear_fall(p), schedule.power))


def _inverse_sqrt(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    share = inverse_sqrt_decay(t, _start(schedule, W), schedule.timescale or W)
    return np.maximum(share, schedule.floor)


def _exponential(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    share = exponential_decay(t, _start(schedule, W), schedule.factor, schedule.every)
    return np.maximum(share, schedule.floor)


def _step(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    return exponential_decay(t, _start(schedule, W), schedule.factor, schedule.every, staircase=True)


def _multistep(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    passed = np.searchsorted(np.sort(schedule.milestones), t - _start(schedule, W), side="right")
    return np.power(schedule.factor, passed)


def _wsd(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    end = _end(schedule, T)
    p = phase(t, end - schedule.decay_length, end, hold=schedule.after_end == "hold")
    return _between(schedule.floor, 1.0, FALLS[schedule.decay_shape](p))


def _one_cycle(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    return one_cycle(schedule, t - W, T - W)


def _cosine_restarts(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    start, growth, cycles = _start(schedule, W), schedule.cycle_growth, schedule.cycles
    first, parts = schedule.cycle, 1
    if not first:  # the cycles share what is left until T
        first, parts = max(T - start, 1), sum(growth**k for k in range(cycles))
    return cosine_restarts(
        t - start,
        first,
        growth,
        cycles if schedule.after_end == "hold" else None,
        parts=parts,
        floor=schedule.floor,
        decay=schedule.cycle_decay,
    )


SCHEDULES: dict[str, Callable[[Schedule, Float64, int, int], Float64]] = {
    "constant": _constant,
    "linear": _fall,
    "polynomial": _polynomial,
    "cosine": _fall,
    "inverse_sqrt": _inverse_sqrt,
    "exponential": _exponential,
    "step": _step,
    "multistep": _multistep,
    "wsd": _wsd,
    "one_cycle": _one_cycle,
    "cosine_restarts": _cosine_restarts,
}
"""Name -> share of the peak at t, given W and T, without the warmup."""


def shares(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    """Share of the peak at t: the warmup of length W times what follows it until T."""
    follows = SCHEDULES[schedule.name](schedule, t, W, T)
    if schedule.warmup_of != "schedule":
        follows = np.where(t < W, schedule.first if schedule.name == "one_cycle" else 1.0, follows)
    if schedule.warmup_shape.endswith("exponential"):
        return follows * exponential_warmup(t, W, start=schedule.warmup_start)
    cosine = schedule.warmup_shape == "cosine"
    return follows * linear_warmup(t, W, schedule.ramp, start=schedule.warmup_start, cosine=cosine)


def learning_rates(recipe: Recipe, updates_per_epoch: int) -> Float64:
    """The learning rate of every update of the run.

    Returns:
        float64, shape (T,) with T = epochs * updates_per_epoch, unit: parameter per gradient.

    Raises:
        InputError: a warmup or a decay, counted in updates, that is longer than the run.
    """
    schedule, epochs = recipe.schedule, recipe.training.epochs
    updates = epochs * updates_per_epoch
    end = epochs if schedule.unit == "epoch" else updates
    length = schedule.length or end
    try:
        recipe.check_schedule(length, f"the run of {updates} updates ({epochs} epochs of {updates_per_epoch} updates)")
    except ValueError as error:
        raise InputError(str(error)) from None
    rates = schedule.peak * shares(schedule, np.arange(end, dtype=np.float64), recipe.warmup, length)
    return np.repeat(rates, updates_per_epoch) if schedule.unit == "epoch" else rates
