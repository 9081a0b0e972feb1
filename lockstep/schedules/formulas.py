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
    "cosine_waves",
    "exponential_decay",
    "exponential_fall",
    "exponential_warmup",
    "inverse_sqrt_decay",
    "learning_rates",
    "linear_fall",
    "linear_warmup",
    "one_cycle",
    "phase",
    "power_fall",
    "shares",
    "sqrt_fall",
    "stretched",
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


def linear_warmup(
    t: Float64, W: int, ramp: str, *, start: float = 0.0, shape: str = "linear", top: str | None = None
) -> Float64:
    """The ramp from `start` below W, 1 from W on.

    The formula is start + (1 - start) f(r) with r = (t+1)/W, t/W or (t+1)/(W+1), of which `top` = "W-1" makes t/(W-1),
    and f by `shape`: r itself (linear), (1 - cos(pi r)) / 2 (cosine), 1 - sqrt(1 - r) (1-sqrt), the logarithm of the
    ramp's numerator over that of its denominator (log), or 0 (constant). PyTorch's `LinearLR(start, total_iters=W)` is
    the ramp t/W.

    Example: `linear_warmup(np.arange(6.0), 5, "(t+1)/W")` is 0.2, 0.4, 0.6, 0.8, 1, 1.
    """
    if W == 0:
        return np.ones_like(t)
    done, length = RAMPS[ramp](np.minimum(t, W), W)
    if top == "W-1":
        length = max(length - 1, 1)
    done = np.minimum(done, length)
    return np.where(t < W, start + (1 - start) * RISES[shape](done, length), 1.0)


def _log_rise(done: Float64, length: float) -> Float64:
    """log(done) / log(length), 0 at the first two whole numbers."""
    return np.asarray(np.log(np.maximum(done, 1)) / np.log(max(length, 2)))


RISES: dict[str, Callable[[Float64, float], Float64]] = {
    "linear": lambda done, length: done / length,
    "cosine": lambda done, length: cosine_fall(Phase(length - done, done, length)),
    "1-sqrt": lambda done, length: sqrt_fall(Phase(length - done, done, length)),
    "log": _log_rise,
    "constant": lambda done, length: np.zeros_like(done),
}
"""The shapes of a warmup that ends, by name: of what is done of the ramp, and its length."""


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


def power_fall(p: Phase, power: float = 0.5) -> Float64:
    """1 - (done/length)^power, from what is left.

    Source: timm 1.0 `WSDLRScheduler`. Example: `power_fall(phase(np.arange(5.0), 0, 4))[1]` is 0.5.
    """
    with np.errstate(divide="ignore"):  # at the start nothing is done: 1 - exp(-inf)
        return np.asarray(-np.expm1(power * np.log1p(-p.left / p.length)))


def exponential_fall(p: Phase, ratio: float = 0.5) -> Float64:
    """(ratio^(done/length) - ratio) / (1 - ratio): exponential, and 0 at the end.

    With a ratio of 1/2 it is 2 * 2^-(done/length) - 1. Sources: Megatron-LM `OptimizerParamScheduler`, timm 1.0
    `WSDLRScheduler`.

    Example: `exponential_fall(phase(np.array([0.0, 2, 4]), 0, 4))` is 1, 0.414, 0.
    """
    return np.asarray(ratio * np.expm1(-p.left / p.length * np.log(ratio)) / (1 - ratio))


def cosine_waves(p: Phase, waves: float) -> Float64:
    """(1 + cos(2 pi waves done/length)) / 2: half a wave is `cosine_fall`.

    Source: transformers 5.23 `get_cosine_schedule_with_warmup(num_cycles)`.

    Example: `cosine_waves(phase(np.array([0.0, 2, 4]), 0, 4), 1.0)` is 1, 0, 1.
    """
    turned = np.mod(waves * p.done / p.length, 1.0)
    turned = np.minimum(turned, 1 - turned)
    falling = np.where(turned <= 0.25, np.cos(np.pi * turned), np.sin(np.pi * (0.5 - turned)))
    return np.asarray(falling**2)


def stretched(p: Phase, k: float) -> Phase:
    """The phase in which (done/length)^k is done.

    Source: Zhang & Li, arXiv:2004.05909. Example: `stretched(phase(np.array([2.0]), 0, 4), 2).done` is 1.
    """
    return Phase(p.length * (p.done / p.length) ** k, p.length * power_fall(p, k), p.length)


FALLS: dict[str, Callable[[Phase], Float64]] = {
    "linear": linear_fall,
    "1-sqrt": sqrt_fall,
    "cosine": cosine_fall,
    "power": power_fall,
    "exponential": exponential_fall,
}
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


def _decay(schedule: Schedule, t: Float64, W: int, T: int, *, hold: bool) -> Phase:
    """The phase from the warmup to the end; where it has no length, as the library of `schedule.edges` has it."""
    start, end = _start(schedule, W), _end(schedule, T)
    if end <= start and schedule.edges in ("optax", "torchtitan"):
        return Phase(np.zeros_like(t), np.ones_like(t), 1.0)  # the decay never begins
    if schedule.edges == "hf" and schedule.name == "cosine":
        end = max(end, start + 1)  # max(1, T - W)
    return phase(t, start, end, hold=hold)


def _constant(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    return np.ones_like(t)


def _linear(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    p = _decay(schedule, t, W, T, hold=schedule.after_end == "hold")
    return _between(schedule.floor, 1.0, linear_fall(p))


def _cosine(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    p = _decay(schedule, t, W, T, hold=schedule.after_end == "hold")
    if schedule.k_decay is not None:
        p = stretched(p, schedule.k_decay)
    share = cosine_fall(p) if schedule.waves is None else cosine_waves(p, schedule.waves)
    if schedule.power is not None:
        share = np.power(share, schedule.power)
    return _between(schedule.floor, 1.0, share)


def _polynomial(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    p = _decay(schedule, t, W, T, hold=True)
    if schedule.k_decay is not None:
        p = stretched(p, schedule.k_decay)
    floor = schedule.floor if schedule.end_rate is None else schedule.end_rate / schedule.peak
    return _between(floor, 1.0, np.power(linear_fall(p), schedule.power))


def _inverse_sqrt(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    start, timescale = _start(schedule, W), schedule.timescale or W
    if not timescale:  # without a warmup the libraries count on by themselves
        start, timescale = {"hf": (0, 10_000), "megatron": (1, 1)}[schedule.edges]
    share = np.maximum(inverse_sqrt_decay(t, start, timescale), schedule.floor)
    return np.where(t > T, schedule.floor, share) if schedule.length else share


def _exponential(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    start = _start(schedule, W) + (schedule.delay or 0)
    share = exponential_decay(t, start, schedule.factor, schedule.every)
    if schedule.edges == "optax" and schedule.factor >= 1:
        return np.minimum(share, schedule.floor) if schedule.floor else share
    return np.maximum(share, schedule.floor)


def _step(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    start = _start(schedule, W) + (schedule.delay or 0)
    return exponential_decay(t, start, schedule.factor, schedule.every, staircase=True)


def _multistep(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    order = np.argsort(schedule.milestones, kind="stable")
    milestones = np.array(schedule.milestones, dtype=np.int64)[order]
    passed = np.searchsorted(milestones, t - _start(schedule, W), side="right")
    if schedule.edges == "timm":
        passed = np.where(t > 0, passed, 0)  # nothing has called step_update before the first update
    share = np.power(schedule.factor, passed)
    if schedule.factors is not None:
        factors = np.array(schedule.factors, dtype=np.float64)[order]
        share = np.concatenate([[1.0], np.cumprod(factors)])[passed]
    return share


def _wsd(schedule: Schedule, t: Float64, W: int, T: int) -> Float64:
    end = _end(schedule, T)
    p = phase(t, end - schedule.decay_length, end, hold=schedule.after_end == "hold")
    if schedule.decay_shape == "power" and schedule.power is not None:
        fall = power_fall(p, schedule.power)
    elif schedule.decay_shape == "exponential" and schedule.decay_ratio is not None:
        fall = exponential_fall(p, schedule.decay_ratio)
    else:
        fall = FALLS[schedule.decay_shape](p)
    return _between(schedule.floor, 1.0, fall)


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
    "linear": _linear,
    "polynomial": _polynomial,
    "cosine": _cosine,
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
        warming = t <= W if schedule.edges == "megatron" and W else t < W
        follows = np.where(warming, schedule.first if schedule.name == "one_cycle" else 1.0, follows)
    if schedule.name == "constant" and schedule.edges in ("optax", "torch") and W == 0:
        return follows * schedule.warmup_start  # there a warmup of no length never ends
    if schedule.warmup_shape.endswith("exponential"):
        return follows * exponential_warmup(t, W, start=schedule.warmup_start)
    shape = schedule.warmup_form
    start, top = schedule.warmup_start, schedule.warmup_top
    return follows * linear_warmup(t, W, schedule.ramp, start=start, shape=shape, top=top)


def learning_rates(recipe: Recipe, updates_per_epoch: int) -> Float64:
    """The learning rate of every update of the run.

    Returns:
        float64, shape (T,) with T = epochs * updates_per_epoch, unit: parameter per gradient.

    Raises:
        InputError: a warmup or a decay, counted in updates, that is longer than the run; a rate beyond the dtype.
    """
    schedule, epochs = recipe.schedule, recipe.training.epochs
    updates = epochs * updates_per_epoch
    end = epochs if schedule.unit == "epoch" else updates
    length = schedule.length or end
    try:
        recipe.check_schedule(length, f"the run of {updates} updates ({epochs} epochs of {updates_per_epoch} updates)")
    except ValueError as error:
        raise InputError(str(error)) from None
    if schedule.edges == "torchtitan" and recipe.warmup >= length < end - 1:
        raise InputError(f"schedule.warmup: torchtitan ends at T + 1 (AssertionError) where W = T = {length}")
    with np.errstate(over="ignore"):  # a factor above 1
        rates = schedule.peak * shares(schedule, np.arange(end, dtype=np.float64), recipe.warmup, length)
    if schedule.least_rate is not None:
        rates = np.maximum(rates, schedule.least_rate)
    beyond = rates > np.finfo(recipe.dtype).max
    if beyond.any() and schedule.peak <= np.finfo(recipe.dtype).max:
        at, dtype = int(beyond.argmax()), recipe.training.dtype
        raise InputError(f"schedule.factor: the learning rate is beyond {dtype} from {schedule.unit} {at} on")
    return np.repeat(rates, updates_per_epoch) if schedule.unit == "epoch" else rates
