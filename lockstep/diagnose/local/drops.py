"""Whether one output is another with a random share of its elements set to 0."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.local.difference import likely
from lockstep.numbers import factor
from lockstep.oracle.arithmetic import Array

__all__ = ["CHANCE", "FEWEST", "SAME", "Drop", "drop_between", "words_of_drop"]

CHANCE = 6.0
"""Standard deviations that the share of zeros may be from the rate."""
FEWEST = 48
"""Elements that tell, at least."""
SAME = 1e-3
"""Relative distance within which what is kept is one multiple, in float32 and finer dtypes."""


class Drop(NamedTuple):
    """What one output is of another: a share of its elements is 0, the rest are so many times the
    other's. `unit` is how far a single one of them may be off, relative.
    """

    share: float
    times: float
    kept: NDArray[np.bool_]
    unit: float


def drop_between(mine: Array, other: Array, same: float = SAME) -> Drop | None:
    """The dropout by which `mine` comes of `other`; None where it is none.

    Zeros must be neither few nor all, and in no order: those of a clip or a mask are of one sign,
    or of whole rows.
    """
    if mine.shape != other.shape or mine.size < FEWEST:
        return None
    is_counted = other != 0
    kept = is_counted & (mine != 0)
    count = int(is_counted.sum())
    if count < FEWEST or not kept.any() or (mine[~is_counted] != 0).any():
        return None
    share = 1 - float(kept.sum()) / count
    if not (np.isfinite(mine).all() and np.isfinite(other).all()):
        return None
    times = float((mine * other)[kept].sum() / np.square(other[kept]).sum())
    off = np.abs(mine - times * other)[kept]
    if not 0.5 / count < share < 1 or (off > same * np.abs(mine[kept])).any():
        return None
    return Drop(share, times, kept, same) if _is_random(kept, is_counted, other) else None


def _is_random(kept: NDArray[np.bool_], is_counted: NDArray[np.bool_], other: Array) -> bool:
    """Whether what is left out tells nothing of the sign, the size, the row or the column."""
    share = 1 - kept.sum() / is_counted.sum()
    sizes = np.abs(other)
    sides = [other > 0, other < 0, sizes > np.median(sizes), sizes < np.median(sizes)]
    sides.append(np.broadcast_to(np.arange(other.shape[-1]) % 2 == 0, other.shape))
    for side in sides:
        those = is_counted & side
        count = int(those.sum())
        error = np.sqrt(share * (1 - share) / max(count, 1))
        if count and abs(1 - kept[those].sum() / count - share) > CHANCE * error:
            return False
    # of each slice along an axis, so many are left out as of all, within the errors of chance
    for axis in range(other.ndim):
        rest = tuple(place for place in range(other.ndim) if place != axis)
        count_s = is_counted.sum(axis=rest)
        off_s = (is_counted & ~kept).sum(axis=rest) - share * count_s
        is_filled_s = count_s > 0
        squares = np.square(off_s[is_filled_s]) / (share * (1 - share) * count_s[is_filled_s])
        if squares.sum() > is_filled_s.sum() + CHANCE * np.sqrt(2 * is_filled_s.sum()) + CHANCE**2:
            return False
    return True


def words_of_drop(drop: Drop, layer: str, mine: str, other: str) -> str | None:
    """A dropout in words; None where its factor is no dropout's.

    What is kept is divided by 1 - p as a rule, not at all by some, and by p where the share that is
    kept was taken for the rate.
    """
    count = drop.kept.size
    ways = [(1 - 1 / drop.times, 0.0, "")]
    if abs(drop.times - 1) < SAME:
        spread = float(np.sqrt(drop.share * (1 - drop.share) / count))
        ways = [(drop.share, spread, f": {mine} does not divide what it keeps by 1 - p")]
    ways.append((1 / drop.times, 0.0, f": {mine} divides what it keeps by p, not by 1 - p"))
    for rate, spread, tail in ways:
        if not 0 < rate < 1:
            continue
        by_chance = float(np.sqrt(rate * (1 - rate) / count))
        if abs(drop.share - rate) > CHANCE * by_chance:
            continue
        plain = round(rate, 3)  # a share that chance gives is no round number
        if not spread:
            plain = likely(rate, max(1e-3 * rate, min(drop.unit, by_chance)))
        times = drop.times
        if not tail and plain < 1 and abs(times * (1 - plain) - 1) < max(SAME, drop.unit):
            times = 1 / (1 - plain)
        return (
            f"{100 * plain:.4g}% of {mine}'s {layer} is 0, the others are "
            f"{factor(times, 4)} times {other}'s{tail}"
        )
    return None
