"""Two learning-rate series beside one another, and what a relation of them says."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.rates.series import RateSeries, width_of

__all__ = ["FEWEST", "Relation", "SeriesPair", "factor_of"]

Array = NDArray[np.float64]

FEWEST = 3
"""Updates with other rates that a relation must give."""


class Relation(NamedTuple):
    """A cause of other rates: its key, its text, and the rates that it gives."""

    key: str
    text: str
    page: str
    rates_T: Array


@dataclass(frozen=True)
class SeriesPair:
    """Two series of one length, the rates of `mine` to be explained by those of `other`."""

    mine: RateSeries
    other: RateSeries
    noun: str
    epoch: int

    @property
    def b(self) -> Array:
        """The rates to explain."""
        return self.mine.rates_T

    @property
    def a(self) -> Array:
        """The rates beside them."""
        return self.other.rates_T

    @cached_property
    def width(self) -> float:
        """The largest difference that rounding accounts for."""
        return width_of(self.mine, self.other)

    @cached_property
    def differs_T(self) -> NDArray[np.bool_]:
        """Whether the rates of an update differ."""
        return np.asarray(np.abs(self.b - self.a) > self.width)

    def update_at(self, place: int) -> int:
        """The number of the update at a place of the series."""
        return self.other.first + place

    def are_equal(self, rates: Array, others: Array) -> bool:
        """Whether two stretches differ by no more than rounding."""
        return bool((np.abs(rates - others) <= self.width).all())


def factor_of(mine: Array, other: Array, width: float) -> float | None:
    """The number c, other than 0, for which `mine` is c times `other`; None where there is none."""
    largest = int(np.abs(other).argmax())
    if not other[largest] or not mine[largest]:
        return None
    times = float(mine[largest] / other[largest])
    within = width * max(1.0, abs(times))
    return times if (np.abs(times * other - mine) <= within).all() else None
