"""The learning rates of a loop, rightly or wrongly, as functions of the update."""

from collections.abc import Callable

import numpy as np

from lockstep.oracle.arithmetic import Array
from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["RATES", "SCHEDULES", "rates_of"]

WARMUP = 8
END = 40
"""Updates of the climb, and of all, of the schedules with a name."""


def rates_of(loop: Loop) -> Array:
    """The learning rate of every update."""
    update_T = np.arange(loop.updates, dtype=np.float64)
    rate_T = loop.lr * SCHEDULES[loop.schedule](update_T, loop)
    return RATES[loop.rates](rate_T, loop) if loop.rates else rate_T


# ---- schedules, as shares of the peak


def _climb(t: Array, loop: Loop) -> Array:
    return np.minimum(1.0, (t + 1 + loop.lr_offset) / max(loop.warmup, 1))


def _cosine(
    t: Array, loop: Loop, *, warmup: int = WARMUP, begin: int = WARMUP, end: int = END,
    floor: float = 0.0, power: float = 1.0,
) -> Array:  # fmt: skip
    """A climb, then a cosine from `begin` to `end`, then its floor."""
    share = np.clip((t - begin) / (end - begin), 0, 1)
    fall = floor + (1 - floor) * (1 + np.cos(np.pi * share)) / 2
    rise = ((t + 1) / warmup) ** power if warmup else 1.0
    return np.where(t < warmup, rise, fall)


def _linear(t: Array, loop: Loop) -> Array:
    fall = np.clip((END - t) / (END - WARMUP), 0, 1)
    return np.where(t < WARMUP, (t + 1) / WARMUP, fall)


def _turning_back(t: Array, loop: Loop) -> Array:
    """The cosine of a period of 20, which climbs back."""
    return (1 + np.cos(np.pi * t / 20)) / 2


def _steps(t: Array, loop: Loop, every: int = 10, by: float = 0.5) -> Array:
    return by ** (t // every)


def _from(t: Array, loop: Loop, first: float) -> Array:
    """A climb from a share of the peak, and the cosine."""
    return np.where(t < WARMUP, first + (1 - first) * t / WARMUP, _cosine(t, loop))


SCHEDULES: dict[str, Callable[[Array, Loop], Array]] = {
    "climb": _climb,
    "cosine": _cosine,
    "cosine-without-warmup": lambda t, loop: _cosine(t, loop, warmup=0),
    "cosine-warmup-10": lambda t, loop: _cosine(t, loop, warmup=10, begin=10),
    "cosine-squared-ramp": lambda t, loop: _cosine(t, loop, power=2.0),
    "cosine-warmup-from-0": lambda t, loop: np.where(t < WARMUP, t / WARMUP, _cosine(t, loop)),
    "cosine-from-update-0": lambda t, loop: _cosine(t, loop, begin=0),
    "cosine-too-long": lambda t, loop: _cosine(t, loop, end=END + WARMUP),
    "cosine-short": lambda t, loop: _cosine(t, loop, end=32),
    "cosine-floor": lambda t, loop: _cosine(t, loop, floor=0.1),
    "linear": _linear,
    "cosine-20": lambda t, loop: _cosine(t, loop, warmup=0, begin=0, end=20),
    "cosine-20-turning-back": _turning_back,
    "steps": _steps,
    "steps-of-8": lambda t, loop: _steps(t, loop, 8),
    "steps-by-tenths": lambda t, loop: _steps(t, loop, 10, 0.1),
    "restarts": lambda t, loop: (1 + np.cos(np.pi * (t % 20) / 20)) / 2,
    "exponential": lambda t, loop: 0.95**t,
    "exponential-faster": lambda t, loop: 0.9**t,
    "line-from-tenth": lambda t, loop: _from(t, loop, 0.1),
    "line-from-third": lambda t, loop: _from(t, loop, 0.3),
    "restarts-of-8": lambda t, loop: (1 + np.cos(np.pi * (t % 8) / 8)) / 2,
}
"""Name -> the shares of the peak at updates counted from 0."""


# ---- what is done to the right rates


def _strided(rate_T: Array, times: int) -> Array:
    places = np.minimum(times * np.arange(len(rate_T)), len(rate_T) - 1)
    return rate_T[places]


def _tenth_and_late(rate_T: Array) -> Array:
    return 0.1 * np.concatenate([rate_T[:1], rate_T[:-1]])


def _half_from_20(rate_T: Array) -> Array:
    return np.where(np.arange(len(rate_T)) < 20, 1.0, 0.5) * rate_T


def _jittering(rate_T: Array, loop: Loop) -> Array:
    draw = np.random.Generator(np.random.PCG64(loop.odd))
    return rate_T * draw.uniform(0.8, 1.2, size=rate_T.shape)


def _of(change: Callable[[Array], Array]) -> Callable[[Array, Loop], Array]:
    return lambda rate_T, loop: change(rate_T)


RATES: dict[str, Callable[[Array, Loop], Array]] = {
    "first-0": _of(lambda rate_T: np.concatenate([[0.0], rate_T[1:]])),
    "constant": _of(lambda rate_T: np.full_like(rate_T, rate_T.max())),
    "twice-as-fast": _of(lambda rate_T: _strided(rate_T, 2)),
    "once-in-4": _of(lambda rate_T: rate_T[np.arange(len(rate_T)) // 4]),
    "held-for-4": _of(lambda rate_T: rate_T[np.arange(len(rate_T)) // 4 * 4]),
    "tenth-and-late": _of(_tenth_and_late),
    "half-from-20": _of(_half_from_20),
    "bounded": _of(lambda rate_T: np.maximum(rate_T, 0.2 * rate_T.max())),
    "rounded": _of(lambda rate_T: rate_T.astype(np.float32).astype(np.float64)),
    "3-late": _of(lambda rate_T: np.concatenate([rate_T[:1].repeat(3), rate_T[:-3]])),
    "odd-jitter": _jittering,
}
"""Key -> the wrong learning rates, of the right ones and their loop."""
