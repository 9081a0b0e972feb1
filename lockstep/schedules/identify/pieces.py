"""A learning-rate series cut into the pieces that each follow one law."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lockstep.schedules.identify.laws import FEWEST, FITS, FREE, Law, fit, refit

__all__ = ["TIGHT", "Piece", "cut", "tolerance_of"]

Array = NDArray[np.float64]

TIGHT = 2e-13
"""Share of the largest rate that a schedule in float64 may be off by. Closed forms agree to 6e-15;
the recursive ones of PyTorch lose a few digits more over thousands of updates."""
LOOSE = 4e-7
"""The same of a schedule in float32: a few units of its last place."""
MOST_PIECES = 40
MOST_LOOSE = 9
"""Updates without a law after which a series is of no schedule."""
WINDOWS = (10**9, 1000, 250, 60, 15)
"""Updates that a law is tried on, the most first: all that are left, to begin with."""
LONG = 12
"""Updates after which a line is no piece of a curve that bends soon."""
SNAPPED = {"cosine": (2, 3), "power": (2,), "exponential": ()}
"""Kind of a law -> the places of its numbers that are updates."""
LAST = ("exponential", "power")
"""Laws that are only tried where the others end early: their fits take longest."""


@dataclass(frozen=True)
class Piece:
    """The updates from `begin` up to, but not including, `end`, and their law; `others` are those
    laws that hold for the same updates. A law of None is of updates that show none.
    """

    begin: int
    end: int
    law: Law | None
    others: tuple[Law, ...] = ()


def tolerance_of(rates_T: Array, *, is_float32: bool) -> float:
    """The largest error of a law, in the unit of the rates."""
    size = float(np.abs(rates_T).max(initial=0.0))
    return size * (LOOSE if is_float32 else max(TIGHT, 1e-16 * len(rates_T)))


def cut(rates_T: Array, tolerance: float) -> list[Piece]:
    """The pieces of a series, each as long as its law holds.

    Args:
        rates_T: finite rates of consecutive updates.
        tolerance: the largest error of a law.
    """
    pieces: list[Piece] = []
    begin = loose = 0
    while begin < len(rates_T) and len(pieces) < MOST_PIECES and loose <= MOST_LOOSE:
        piece = _longest(rates_T, begin, tolerance)
        loose += piece.law is None
        if piece.law is None and pieces and pieces[-1].law is None:
            pieces[-1] = replace(pieces[-1], end=piece.end)
        else:
            pieces.append(piece)
        begin = piece.end
    if begin < len(rates_T):
        pieces.append(Piece(begin, len(rates_T), None))
    return pieces


def _longest(rates_T: Array, begin: int, tolerance: float) -> Piece:
    held: list[tuple[int, Law]] = []
    for kind in FITS:
        reached = max((end for end, _ in held), default=begin)
        if kind in LAST and reached == len(rates_T) and not _is_wide(held[-1][1], rates_T):
            break
        # a stretch that is a line for long is of another law only to the end
        is_flat = reached - begin > FEWEST["constant"] and held[0][1].kind == "constant"
        is_straight = reached - begin >= LONG or is_flat
        windows = WINDOWS[:1] if is_straight and kind in FREE else WINDOWS
        law = _reach(kind, rates_T, begin, tolerance, windows)
        if law is not None:
            held.append(law)
    if not held:
        return Piece(begin, begin + 1, None)
    end = max(reached for reached, _ in held)
    laws = [law for reached, law in held if reached == end]
    return Piece(begin, end, laws[0], tuple(laws[1:]))


def _is_wide(law: Law, rates_T: Array) -> bool:
    """Whether a cosine swings beyond the rates, and may be another curve."""
    return law.kind == "cosine" and law.numbers[1] > np.abs(rates_T).max()


def _reach(
    kind: str, rates_T: Array, begin: int, tolerance: float, windows: tuple[int, ...]
) -> tuple[int, Law] | None:
    """The last update, plus 1, up to which a law of this kind holds from `begin` on, and the law;
    None where it does not hold for as many as it needs.
    """
    rest = len(rates_T) - begin
    best: Law | None = None
    low = high = begin
    fewest = (FEWEST[kind],) if len(windows) > 1 else ()
    for window in (*windows, *fewest):
        length = min(window, rest)
        if length < FEWEST[kind] or begin + length == high:
            continue
        t = np.arange(begin, begin + length, dtype=np.float64)
        best = fit(kind, t, rates_T[begin : begin + length], tolerance)
        if best is not None:
            low = begin + length
            break
        high = begin + length
    if best is None:
        return None
    high = max(high, low + 1)
    while low < high - 1:
        end = (low + high) // 2
        t = np.arange(begin, end, dtype=np.float64)
        law = refit(best, t, rates_T[begin:end], tolerance)
        if law is None:
            high = end
        else:
            low, best = end, law
    t = np.arange(begin, low, dtype=np.float64)
    return low, _snapped(best, t, rates_T[begin:low], tolerance)


def _snapped(law: Law, t: Array, y: Array, tolerance: float) -> Law:
    """The law with whole updates, and with a floor of 0, where that holds as well."""
    for place in SNAPPED.get(law.kind, ()):
        numbers = list(law.numbers)
        numbers[place] = float(round(numbers[place]))
        law = _if_holds(replace(law, numbers=tuple(numbers)), law, t, y, tolerance)
    if law.kind == "cosine":
        middle, amplitude, top, length = law.numbers
        columns = np.stack([np.ones_like(t), np.cos(np.pi * (t - top) / length)], axis=1)
        (middle, amplitude), *_ = np.linalg.lstsq(columns, y, rcond=None)
        again = replace(law, numbers=(float(middle), float(amplitude), top, length))
        law = _if_holds(again, law, t, y, tolerance)
        middle, amplitude = law.numbers[:2]
        half = (middle + amplitude) / 2
        low = replace(law, numbers=(half, half, top, length))
        law = _if_holds(low, law, t, y, tolerance)
    elif law.kind in LAST:
        law = _if_holds(replace(law, numbers=(0.0, *law.numbers[1:])), law, t, y, tolerance)
    return law


def _if_holds(candidate: Law, law: Law, t: Array, y: Array, tolerance: float) -> Law:
    return candidate if np.abs(candidate.at(t) - y).max() <= 2 * tolerance else law
