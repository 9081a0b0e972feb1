"""A setting in which two loops differ, by what each side's own tensors say."""

import math
from typing import NamedTuple

from lockstep.diagnose.local.measurement import Measurement

__all__ = ["NEAR", "SURE", "LocalDifference", "is_apart", "likely"]

SURE = 8.0
"""Standard errors that a measurement must be from another, or from 0: by chance that happens once
in 10^15 times, and errors that are not quite normal are still covered."""
NEAR = 3.0
"""Errors within which a plainer number may stand for a measured one."""
DIGITS = 4
"""The most digits of a measured number that are shown."""


class LocalDifference(NamedTuple):
    """Two measurements of one setting that rounding cannot explain.

    Attributes:
        a: of side a.
        b: of side b.
        key: of the cause.
        text: the cause in one sentence.
        page: the atlas page on it, or "".
    """

    a: Measurement
    b: Measurement
    key: str
    text: str
    page: str


def is_apart(a: Measurement, b: Measurement, floor: float = 0.0) -> bool:
    """Whether two measurements are farther apart than their errors allow, and than a floor."""
    error = math.hypot(a.error, b.error)
    return abs(a.value - b.value) > max(SURE * error, floor)


def likely(value: float, error: float) -> float:
    """What somebody may have written: of the numbers within `NEAR` errors 0, else a power of ten,
    else the nearest with the fewest digits.
    """
    if abs(value) <= NEAR * error:
        return 0.0
    power = 10.0 ** round(math.log10(abs(value)))
    for plain in (
        math.copysign(power, value),
        *(float(f"{value:.{n}g}") for n in range(1, DIGITS)),
    ):
        if abs(plain - value) <= NEAR * error:
            return plain
    return float(f"{value:.{DIGITS}g}")
