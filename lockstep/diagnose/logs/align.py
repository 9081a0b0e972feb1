"""Two logs step by step: the common steps, where one may count from 0 and the other from 1."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.logs.digits import Digits, digits_of, tolerance
from lockstep.logs.column_names import RATE
from lockstep.logs.log import Log, Series

__all__ = ["Numbers", "SeriesPair", "moved", "offsets_of", "pairs_of"]

OFFSETS = (0, 1, -1)
"""What is added to b's steps to make them a's."""


@dataclass(frozen=True)
class Numbers:
    """One side of a quantity, in a's numbering."""

    column: str
    steps_N: NDArray[np.int64]
    values_N: NDArray[np.float64]
    widths_N: NDArray[np.float64]
    """How far each number may be from the one that was computed exactly."""
    digits: Digits

    @property
    def interval(self) -> int:
        """The usual distance between two steps."""
        return int(np.median(np.diff(self.steps_N))) if len(self.steps_N) > 1 else 1

    def at(self, places: NDArray[np.int64]) -> "Numbers":
        """The numbers at these places."""
        arrays = (self.steps_N[places], self.values_N[places], self.widths_N[places])
        return Numbers(self.column, *arrays, self.digits)

    def moved(self, steps: int) -> "Numbers":
        """The same numbers, so many steps later."""
        return replace(self, steps_N=self.steps_N + steps)


@dataclass(frozen=True)
class SeriesPair:
    """One quantity of both logs."""

    name: str
    all_a: Numbers
    all_b: Numbers
    """b's, in a's numbering."""

    @cached_property
    def _common(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        _, a_N, b_N = np.intersect1d(
            self.all_a.steps_N, self.all_b.steps_N, assume_unique=True, return_indices=True
        )
        return a_N, b_N

    @cached_property
    def a(self) -> Numbers:
        """a's numbers at the common steps."""
        return self.all_a.at(self._common[0])

    @cached_property
    def b(self) -> Numbers:
        """b's numbers at the common steps."""
        return self.all_b.at(self._common[1])

    @cached_property
    def is_judged_N(self) -> NDArray[np.bool_]:
        """Whether both have a number: neither NaN nor infinite."""
        return np.isfinite(self.a.values_N) & np.isfinite(self.b.values_N)

    @cached_property
    def gaps_N(self) -> NDArray[np.float64]:
        """|a - b|; infinite where one side alone has a number, 0 where both have none."""
        is_finite_a_N, is_finite_b_N = np.isfinite(self.a.values_N), np.isfinite(self.b.values_N)
        with np.errstate(invalid="ignore"):
            gaps_N = np.abs(self.a.values_N - self.b.values_N)
        gaps_N = np.where(self.is_judged_N, gaps_N, 0.0)
        return np.where(is_finite_a_N != is_finite_b_N, np.inf, gaps_N)

    @cached_property
    def allowed_N(self) -> NDArray[np.float64]:
        """How far two equal numbers may be apart in these logs."""
        return self.a.widths_N + self.b.widths_N

    @cached_property
    def parts_N(self) -> NDArray[np.bool_]:
        """Whether the two differ by more than their digits and float32 arithmetic allow."""
        return self.gaps_N > self.allowed_N

    @property
    def steps(self) -> int:
        """The number of common steps."""
        return len(self.a.steps_N)

    @cached_property
    def first(self) -> int | None:
        """The place, among the common steps, where the two part; None where they do not."""
        return int(np.argmax(self.parts_N)) if self.parts_N.any() else None

    def swapped(self) -> "SeriesPair":
        """The same with b as a."""
        return SeriesPair(self.name, self.all_b, self.all_a)


def pairs_of(a: Log, b: Log) -> list[SeriesPair]:
    """The quantities that both logs have, by their steps as they stand."""
    return [_pair(name, a.series[name], b.series[name]) for name in a.series if name in b.series]


def offsets_of(pairs: Sequence[SeriesPair]) -> list[int]:
    """What may be added to b's steps to make them a's; the first agrees best.

    One side may count its steps from 0 and the other from 1. That may be so only if the first steps
    are one apart, or no step is common, or the two log at different intervals. It is the best if
    losses, or whatever is no rate, then agree at more steps than by the numbers as they stand.
    """
    scores = {offset: _agreement(moved(pairs, offset)) for offset in OFFSETS}
    is_open = scores[0] == NOTHING or _other_intervals(pairs)
    possible = [offset for offset in OFFSETS if not offset or is_open or _begin(pairs, -offset)]
    return sorted(possible, key=lambda offset: scores[offset], reverse=True)


def moved(pairs: Sequence[SeriesPair], offset: int) -> list[SeriesPair]:
    """The pairs with so many steps added to b's."""
    if not offset:
        return list(pairs)
    return [replace(pair, all_b=pair.all_b.moved(offset)) for pair in pairs]


def _pair(name: str, a: Series, b: Series) -> SeriesPair:
    return SeriesPair(name, _numbers(name, a), _numbers(name, b))


def _numbers(name: str, series: Series) -> Numbers:
    digits = digits_of(name, series)
    widths_N = tolerance(series.values_N, digits)
    return Numbers(series.column, series.steps_N, series.values_N, widths_N, digits)


NOTHING = (0, 0, 0)
"""The score where no step is common."""


def _agreement(pairs: Sequence[SeriesPair]) -> tuple[int, int, int]:
    """Common steps before the first difference of what is no rate; then of the rates; and whether
    there is any common step.
    """
    losses = sum(_agreeing(pair) for pair in pairs if pair.name != RATE)
    rates = sum(_agreeing(pair) for pair in pairs if pair.name == RATE)
    return losses, rates, int(any(pair.steps for pair in pairs))


def _agreeing(pair: SeriesPair) -> int:
    return pair.steps if pair.first is None else pair.first


def _other_intervals(pairs: Sequence[SeriesPair]) -> bool:
    """Whether the sides log at different intervals, and more than rates are compared."""
    others = [pair for pair in pairs if pair.name != RATE]
    return any(pair.all_a.interval != pair.all_b.interval for pair in others)


def _begin(pairs: Sequence[SeriesPair], steps: int) -> bool:
    """Whether b's first step is so many after a's, in every quantity."""
    distances = {int(pair.all_b.steps_N[0] - pair.all_a.steps_N[0]) for pair in pairs}
    return distances == {steps}
