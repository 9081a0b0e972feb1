"""The shapes that schedules are made of: phases of time, and falls from 1 to 0 within one.

`t` counts from 0. Every function takes a `t` of any shape. What is left until a phase's end is
taken from whole numbers and not as 1 minus what is done: so the last updates keep all their digits.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FALLS",
    "Float64",
    "Phase",
    "between",
    "cosine_fall",
    "cosine_waves",
    "exponential_fall",
    "linear_fall",
    "phase",
    "power_fall",
    "sqrt_fall",
    "stretched",
]

Float64 = NDArray[np.float64]


class Phase(NamedTuple):
    """A stretch of time at each t: what is done of it, what is left, and its length."""

    done: Float64
    left: Float64
    length: float


def phase(t: Float64, start: float, end: float, *, hold: bool = True) -> Phase:
    """The phase from `start` to `end`; `hold`: it stays at its end, else it goes on.

    A phase without length is over at `end`. Example: `phase(np.array([0.0, 4, 9]), 2, 6)` has done
    0, 2, 4 and left
    4, 2, 0.
    """
    if end <= start:
        over = (t >= end).astype(np.float64)
        return Phase(over, 1 - over, 1.0)
    length = end - start
    most = length if hold else np.inf
    return Phase(np.clip(t - start, 0, most), np.clip(end - t, -most + length, length), length)


def linear_fall(p: Phase) -> Float64:
    """1 - done/length; below 0 after the end of a phase that goes on.

    Example: `linear_fall(phase(np.arange(5.0), 0, 4))` is 1, 0.75, 0.5, 0.25, 0.
    """
    return p.left / p.length


def cosine_fall(p: Phase) -> Float64:
    """(1 + cos(pi done/length)) / 2; up and down again after the end of a phase that goes on.

    In its half-angle form: cos^2(pi/2 done/length), and in the second half sin^2(pi/2 left/length).
    The plain form loses the tail to cancellation. Source: Loshchilov & Hutter, arXiv:1608.03983,
    eq. 5.

    Example: `cosine_fall(phase(np.array([0.0, 2, 4]), 0, 4))` is 1, 0.5, 0.
    """
    done, left = p.done, p.left
    if (left < 0).any():  # folded back into the phase, which the curve goes through to and fro
        done = np.abs(np.fmod(done + p.length, 2 * p.length) - p.length)
        left = p.length - done
    quarter = np.pi / (2 * p.length)
    return np.asarray(
        np.where(done <= left, np.cos(quarter * done) ** 2, np.sin(quarter * left) ** 2)
    )


def sqrt_fall(p: Phase) -> Float64:
    """1 - sqrt(done/length), as left/length / (1 + sqrt(done/length)).

    Source: Hägele et al., arXiv:2405.18392. Example: `sqrt_fall(phase(np.arange(5.0), 0, 4))[1]` is
    0.5.
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

    With a ratio of 1/2 it is 2 * 2^-(done/length) - 1. Sources: Megatron-LM
    `OptimizerParamScheduler`, timm 1.0 `WSDLRScheduler`.

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

    Source: Zhang & Li, arXiv:2004.05909. Example: `stretched(phase(np.array([2.0]), 0, 4), 2).done`
    is 1.
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


def between(low: float, high: float, share: Float64) -> Float64:
    """`low` at a share of 0, `high` at 1."""
    return low + (high - low) * share
