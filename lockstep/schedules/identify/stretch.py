"""A stretch of a schedule: a rate that stays, or falls by a law, with the updates that it counts
from and to.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.schedules.identify.laws import SURE, Law
from lockstep.schedules.identify.pieces import Piece

__all__ = ["WHOLE", "Stretch", "stretch_of", "whole"]

Array = NDArray[np.float64]

WHOLE = 1e-4
"""Distance from a whole number within which a number that is read off is one."""
NEAR = 2
"""Updates between the end of a climb and the start of a decay, at most."""


@dataclass(frozen=True)
class Stretch:
    """What follows a climb.

    Attributes:
        kind: "constant", "line", "cosine", "exponential" or "power".
        begin: the first of its updates.
        stop: the last of them, plus 1.
        start: the update from which its formula counts; None where that is not known.
        end: the update at which it is at its floor; None where it has none or it is not known.
        top: the rate at `start`.
        floor: the rate at `end`; 0 where it has none.
        number: the factor an update of an exponential, the exponent of a power, or the slope of a
            line; else 0.
        goes_on: whether it climbs back after its end.
        is_sure: whether its numbers are known to the digits that are needed.
    """

    kind: str
    begin: int
    stop: int
    start: float | None
    end: float | None
    top: float
    floor: float
    number: float
    goes_on: bool
    is_sure: bool
    law: Law


def stretch_of(
    piece: Piece,
    before: Piece | None,
    after: Piece | None,
    rates_T: Array,
    tolerance: float,
    *,
    counts_from_0: bool = False,
) -> Stretch:
    """A piece with a law as a stretch of a schedule.

    Args:
        piece: with a law.
        before: the piece before it, or None.
        after: the piece after it, or None.
        rates_T: the whole series.
        tolerance: the largest error of a law.
        counts_from_0: whether a decay that may begin at the climb's end or at 0 is read to begin
            at 0.
    """
    reader = _Reader(piece, before, after, rates_T, tolerance)
    reader.counts_from_0 = counts_from_0
    return READERS[reader.law.kind](reader)


def whole(value: float, slack: float = 0.0) -> float:
    """A number, or the whole number that it is within what reading it off leaves."""
    near = float(round(value))
    return near if abs(value - near) <= max(WHOLE, min(slack, SURE)) else value


class _Reader:
    """What a piece's law says of a stretch."""

    def __init__(
        self,
        piece: Piece,
        before: Piece | None,
        after: Piece | None,
        rates_T: Array,
        tolerance: float,
    ) -> None:
        if piece.law is None:
            raise ValueError("a piece without a law is no stretch")
        self.law = piece.law
        self.begin = piece.begin
        self.stop = piece.end
        self.before = before
        self.after = after
        self.rates_T = rates_T
        self.tolerance = tolerance
        self.counts_from_0 = False
        self.spread = piece.law.spread or (0.0,) * len(piece.law.numbers)

    def at(self, update: float) -> float:
        """The law's rate at an update."""
        return float(self.law.at(np.array([float(update)]))[0])

    @property
    def held(self) -> float | None:
        """The rate that stays after the piece; None where none does."""
        law = None if self.after is None else self.after.law
        return law.numbers[0] if law is not None and law.kind == "constant" else None

    def stretch(
        self,
        start: float | None,
        end: float | None,
        top: float,
        floor: float,
        number: float = 0.0,
        *,
        goes_on: bool = False,
        is_sure: bool = True,
    ) -> Stretch:
        """The stretch with these numbers."""
        return Stretch(
            self.law.kind,
            self.begin,
            self.stop,
            start,
            end,
            top,
            floor,
            number,
            goes_on,
            is_sure,
            self.law,
        )

    def constant(self) -> Stretch:
        """A rate that stays."""
        rate = self.law.numbers[0]
        return self.stretch(None, None, rate, rate)

    def cosine(self) -> Stretch:
        """Half a cosine from the top before its first update."""
        middle, amplitude, top_at, length = self.law.numbers
        periods = np.floor((self.begin + SURE - top_at) / (2 * length))
        top_at += 2 * length * float(periods)
        slack = self.spread[2] + self.spread[3]
        of_rates = self.spread[0] + self.spread[1]
        low = middle - amplitude
        if abs(low) <= 8 * max(self.tolerance, of_rates):
            low = 0.0
        is_sure = slack < SURE and of_rates <= 1e-3 * amplitude
        end = whole(top_at + length, slack)
        goes_on = self.stop - 1 > end + SURE
        start = whole(top_at, slack)
        return self.stretch(start, end, middle + amplitude, low, goes_on=goes_on, is_sure=is_sure)

    def exponential(self) -> Stretch:
        """A decay by a factor, to a floor or to 0."""
        floor, scale, ratio, _ = self.law.numbers
        start = self._start()
        top = self.at(self.begin if start is None else start)
        is_sure = self.spread[2] * (self.stop - self.begin) < SURE
        is_sure = is_sure and self.spread[0] <= 1e-3 * abs(scale)
        is_sure = is_sure and (start is not None or not self._is_after_climb)
        return self.stretch(start, None, top, floor, ratio, is_sure=is_sure)

    def line(self) -> Stretch:
        """A straight line, whose end is known where it is at 0 at a whole update, or stays."""
        at_0, slope = self.law.numbers
        start = self._start()
        top = self.at(self.begin if start is None else start)
        slack = 4 * self.tolerance / abs(slope) if slope else 0.0
        held = self.held
        if slope >= 0:
            return self.stretch(start, None, top, 0.0, slope)
        if start is None and self._is_after_climb:
            return self.stretch(start, None, top, 0.0, slope, is_sure=False)
        if held is not None and held < self.at(self.stop - 1) + self.tolerance:
            end = whole((held - at_0) / slope, slack)
            return self.stretch(start, end, top, held, slope)
        end = whole(-at_0 / slope, slack)
        is_whole = end == round(end) and end >= self.stop - 1
        return self.stretch(start, end if is_whole else None, top, 0.0, slope)

    def power(self) -> Stretch:
        """A power of the time left, or of the time done."""
        floor, scale, place, power = self.law.numbers
        start = self._start()
        is_sure = max(self.spread[2], self.spread[3] * 100) < SURE
        top = self.at(self.begin if start is None else start)
        is_sure = is_sure and self.spread[0] <= 1e-3 * max(top, self.tolerance)
        if start is None and self._is_after_climb and place >= self.stop - 1:
            is_sure = False
        if power > 1 and place < self.stop - 1:
            is_sure = False  # the top of a cosine is a parabola as well
        slack = self.spread[2]
        if power > 0 and place >= self.stop - 1 - SURE:
            return self.stretch(start, whole(place, slack), top, floor, power, is_sure=is_sure)
        if power < 0:
            return self.stretch(start, None, top, floor, power, is_sure=is_sure)
        held = self.held
        end = None
        if held is not None and (held - floor) / scale > 0:
            end = whole(place + ((held - floor) / scale) ** (1 / power), slack)
        top = floor
        return self.stretch(whole(place, slack), end, top, held or 0.0, power, is_sure=is_sure)

    @property
    def _is_after_climb(self) -> bool:
        return self.before is not None and (
            self.before.law is None or self.before.law.kind != "constant"
        )

    def _start(self) -> float | None:
        """The update at which a fall is at the rate that what comes before it rises to; a whole
        one, or None.
        """
        before = self.before
        if before is None:
            return float(self.begin) if self.begin == 0 else None
        if before.law is None:
            peaks = [float(self.rates_T[before.begin : self.begin + 1].max())]
        elif before.law.kind == "constant":
            peaks = [before.law.numbers[0]]
        else:
            places = np.array([self.begin - 1.0, float(self.begin)])
            peaks = [float(rate) for rate in before.law.at(places)]
        starts = [self._reaches(peak) for peak in peaks]
        known = [round(start) for start in starts if start is not None and _is_whole(start)]
        near = [start for start in known if 0 <= self.begin - start <= NEAR]
        # a decay that runs beneath the climb counts from 0; another start may be met by chance
        if near and not (self.counts_from_0 and 0 in known):
            return float(near[-1])
        return 0.0 if 0 in known else None

    def _reaches(self, rate: float) -> float | None:
        """The time at which a falling law has this rate; None where it never has."""
        with np.errstate(all="ignore"):
            if self.law.kind == "line":
                at_0, slope = self.law.numbers
                value = (rate - at_0) / slope
            elif self.law.kind == "exponential":
                floor, scale, ratio, t0 = self.law.numbers
                value = t0 + np.log((rate - floor) / scale) / np.log(ratio)
            else:
                floor, scale, place, power = self.law.numbers
                apart = np.power(np.float64((rate - floor) / scale), 1 / power)
                value = place - apart if place > self.begin else place + apart
        return float(value) if np.isfinite(value) else None


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) <= 10 * WHOLE


READERS = {
    "constant": _Reader.constant,
    "line": _Reader.line,
    "cosine": _Reader.cosine,
    "exponential": _Reader.exponential,
    "power": _Reader.power,
}
"""Kind of a law -> what reads a stretch off it."""
