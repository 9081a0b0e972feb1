"""The shapes of schedules: phases of time, and falls from 1 to 0 within a phase.

`t` counts from 0. Every function takes a `t` of any shape. The time left until a phase's end is
computed from whole numbers, and not as 1 minus the share done, so that the last updates keep all
their digits.
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
    """A stretch of time at each t: the time done, the time left, and the length of the stretch."""

    done: Float64
    left: Float64
    length: float


def phase(t: Float64, start: float, end: float, *, hold: bool = True) -> Phase:
    """The phase from `start` to `end`, which stays at its end (`hold`) or goes on.

    A phase without length is over at `end`.

    Example: `phase(np.array([0.0, 4, 9]), 2, 6)` has done 0, 2, 4 and left 4, 2, 0.
    """
    if end <= start:
        is_over = (t >= end).astype(np.float64)
        return Phase(is_over, 1 - is_over, 1.0)
    length = end - start
    most = length if hold else np.inf
    done = np.clip(t - start, 0, most)
    left = np.clip(end - t, -most + length, length)
    return Phase(done, left, length)


def linear_fall(p: Phase) -> Float64:
    """1 - done/length; below 0 after the end of a phase that goes on.

    Example: `linear_fall(phase(np.arange(5.0), 0, 4))` is 1, 0.75, 0.5, 0.25, 0.
    """
    return p.left / p.length


def cosine_fall(p: Phase) -> Float64:
    """(1 + cos(pi done/length)) / 2; up and down again after the end of a phase that goes on.

    It is computed in its half-angle form: cos^2(pi/2 done/length), and in the second half
    sin^2(pi/2 left/length). The plain form loses the tail to cancellation.

    Source: Loshchilov & Hutter, arXiv:1608.03983, eq. 5.

    Example: `cosine_fall(phase(np.array([0.0, 2, 4]), 0, 4))` is 1, 0.5, 0.
    """
    done = p.done
    left = p.left
    if (left < 0).any():  # beyond the end the curve goes through the phase to and fro
        done = np.abs(np.fmod(done + p.length, 2 * p.length) - p.length)
        left = p.length - done
    quarter = np.pi / (2 * p.length)
    first_half = np.cos(quarter * done) ** 2
    second_half = np.sin(quarter * left) ** 2
    return np.asarray(np.where(done <= left, first_half, second_half))


def sqrt_fall(p: Phase) -> Float64:
    """1 - sqrt(done/length), computed as left/length / (1 + sqrt(done/length)).

    Source: Hägele et al., arXiv:2405.18392.

    Example: `sqrt_fall(phase(np.arange(5.0), 0, 4))[1]` is 0.5.
    """
    return np.asarray(p.left / p.length / (1 + np.sqrt(p.done / p.length)))


def power_fall(p: Phase, power: float = 0.5) -> Float64:
    """1 - (done/length)^power, computed from the time left.

    Source: timm 1.0 `WSDLRScheduler`.

    Example: `power_fall(phase(np.arange(5.0), 0, 4))[1]` is 0.5.
    """
    with np.errstate(divide="ignore"):  # 1 - exp(-inf) at the start
        return np.asarray(-np.expm1(power * np.log1p(-p.left / p.length)))


def exponential_fall(p: Phase, ratio: float = 0.5) -> Float64:
    """(ratio^(done/length) - ratio) / (1 - ratio): exponential, and 0 at the end.

    With a ratio of 1/2 it is 2 * 2^-(done/length) - 1. Sources: Megatron-LM
    `OptimizerParamScheduler`, timm 1.0 `WSDLRScheduler`.

    Example: `exponential_fall(phase(np.array([0.0, 2, 4]), 0, 4))` is 1, 0.414, 0.
    """
    fallen = ratio * np.expm1(-p.left / p.length * np.log(ratio))
    return np.asarray(fallen / (1 - ratio))


def cosine_waves(p: Phase, waves: float) -> Float64:
    """(1 + cos(2 pi waves done/length)) / 2: half a wave is `cosine_fall`.

    Source: transformers 5.23 `get_cosine_schedule_with_warmup(num_cycles)`.

    Example: `cosine_waves(phase(np.array([0.0, 2, 4]), 0, 4), 1.0)` is 1, 0, 1.
    """
    turned = np.mod(waves * p.done / p.length, 1.0)
    turned = np.minimum(turned, 1 - turned)
    first_half = np.cos(np.pi * turned) ** 2
    second_half = np.sin(np.pi * (0.5 - turned)) ** 2
    return np.asarray(np.where(turned <= 0.25, first_half, second_half))


def stretched(p: Phase, k: float) -> Phase:
    """The phase with the share done to the power k: (done/length)^k.

    Source: Zhang & Li, arXiv:2004.05909.

    Example: `stretched(phase(np.array([2.0]), 0, 4), 2).done` is 1.
    """
    done = p.length * (p.done / p.length) ** k
    left = p.length * power_fall(p, k)
    return Phase(done, left, p.length)


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
