"""A learning-rate series as an explanation sees it, with the words for it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.pair import LoopSide
from lockstep.diagnose.units import FLOAT32, unit_of_schedule
from lockstep.oracle.arithmetic import SAFETY

__all__ = ["RateSeries", "rates_of", "width_of"]

Array = NDArray[np.float64]
RECURSIVE = 2e-13
"""Share of the largest rate that a float64 schedule may be off by: PyTorch's recursive forms lose a
few digits over thousands of updates."""


@dataclass(frozen=True)
class RateSeries:
    """The learning rates of consecutive updates.

    Attributes:
        its: the words for its rate: "a's", "the declared one".
        who: the words for whoever has it: "a", "the declared schedule".
        symbol: what stands for the rates in a formula.
        rates_T: finite rates (T,).
        unit: the unit roundoff that they were computed in.
        first: the first of the updates, counted from 0.
    """

    its: str
    who: str
    symbol: str
    rates_T: Array
    unit: float
    first: int = 0

    @property
    def is_float32(self) -> bool:
        """Whether the rates have no more digits than a float32."""
        return self.unit >= FLOAT32

    @property
    def schedule(self) -> str:
        """The words for its schedule: "a's schedule"."""
        return f"{self.its} schedule" if self.its.endswith("'s") else self.who


def rates_of(side: LoopSide, name: str) -> RateSeries | None:
    """The series of that name, such as "lr" or "lr1"; None where it was not recorded, or holds what
    is no number.
    """
    values = side.trace.arrays.get(f"updates/{name}")
    if values is None or not len(values) or not np.isfinite(values).all():
        return None
    unit = unit_of_schedule(side.trace, f"updates/{name}")
    wide = values.astype(np.float64)
    return RateSeries(f"{side.name}'s", side.name, side.name, wide, unit, side.trace.first_update)


def width_of(mine: RateSeries, other: RateSeries) -> float:
    """The largest difference of two rates that rounding accounts for."""
    size = max(float(np.abs(series.rates_T).max(initial=0.0)) for series in (mine, other))
    return size * max(SAFETY * (mine.unit + other.unit), RECURSIVE)
