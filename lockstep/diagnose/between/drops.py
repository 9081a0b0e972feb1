"""Dropout, as one side's output shows it beside the other's."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.between.places import Place, place_of
from lockstep.diagnose.local.difference import likely
from lockstep.numbers import factor
from lockstep.oracle.arithmetic import Array

__all__ = ["Drop", "drop_between", "dropped", "words_of_drop"]

IDEA = "dropout"
PAGE = "dropout-left-on"
CHANCE = 6.0
"""Standard deviations that the share of zeros may be from the rate."""
FEWEST = 48
"""Elements that tell, at least."""
SAME = 1e-3
"""Relative distance within which what is kept is one multiple, in float32 and finer dtypes."""


class Drop(NamedTuple):
    """What one output is of another: a share of its elements is 0, the rest are so many times the
    other's.
    """

    share: float
    times: float
    kept: Array


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
    times = float((mine * other)[kept].sum() / np.square(other[kept]).sum())
    off = np.abs(mine - times * other)[kept]
    if not 0.5 / count < share < 1 or (off > same * np.abs(mine[kept])).any():
        return None
    return Drop(share, times, kept) if _is_random(kept, is_counted, other) else None


def _is_random(kept: Array, is_counted: Array, other: Array) -> bool:
    """Whether what is left out tells nothing of the sign, the size or the column."""
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
        if abs(drop.share - rate) > CHANCE * np.sqrt(rate * (1 - rate) / count):
            continue
        share = 100 * likely(rate, max(spread, 1e-3 * rate))
        return (
            f"dropout: {share:.4g}% of {mine}'s {layer} is 0, the others are "
            f"{factor(drop.times, 4)} times {other}'s{tail}"
        )
    return None


def dropped(pair: LoopPair) -> Iterator[Explanation]:
    """That a side drops a share of what the other keeps, or that both drop other elements."""
    place = place_of(pair)
    if place is None or not all(np.isfinite(target).all() for target in place.targets):
        return
    mine, other = pair.mine.name, pair.other.name
    drop = drop_between(place.mine, place.other, max(SAME, place.tolerance))
    if drop is None:
        if mine == "b":
            yield from _both_drop(place)
        return
    text = words_of_drop(drop, place.layer, mine, other)
    if text is not None:
        predicted = {place.layer: np.where(drop.kept, drop.times * place.other, 0.0)}
        yield Explanation("dropout", text, predicted, IDEA, PAGE)


def _both_drop(place: Place) -> Iterator[Explanation]:
    """That both sides drop, and other elements."""
    if place.mine.size < FEWEST:
        return
    kept_mine, kept_other = place.mine != 0, place.other != 0
    both = kept_mine & kept_other
    shares = 1 - kept_mine.mean(), 1 - kept_other.mean()
    if both.sum() < FEWEST or not all(0.01 < share < 0.99 for share in shares):
        return
    times = float((place.mine * place.other)[both].sum() / np.square(place.other[both]).sum())
    off = np.abs(place.mine - times * place.other)[both]
    if (off > SAME * np.abs(place.mine[both])).any():
        return
    # masks that are drawn apart meet as often as chance has it
    expected = (1 - shares[0]) * (1 - shares[1])
    error = np.sqrt(expected * (1 - expected) / both.size)
    if abs(both.mean() - expected) > CHANCE * error or np.array_equal(kept_mine, kept_other):
        return
    predicted = {place.layer: np.where(both, times * place.other, place.mine)}
    yield Explanation("dropout-mask", _words_of_both(place, shares, times), predicted, IDEA, PAGE)


def _words_of_both(place: Place, shares: tuple[float, float], times: float) -> str:
    """Two dropouts in words, by their rates where the input tells them."""
    for _, x in place.floats():
        drops = [drop_between(target, x, max(SAME, place.tolerance)) for target in place.targets]
        if drops[0] is None or drops[1] is None:
            continue
        rates = [100 * likely(1 - 1 / drop.times, 1e-3) for drop in drops if drop is not None]
        if abs(rates[0] - rates[1]) > 1e-3:
            turned = " (p for 1 - p)" if abs(sum(rates) - 100) < 1e-3 else ""
            return (
                f"dropout: b's {place.layer} drops {rates[0]:.4g}% of its input, a's "
                f"{rates[1]:.4g}%{turned}"
            )
    return (
        f"dropout: b's {place.layer} and a's drop elements of their own ({shares[0]:.1%} and "
        f"{shares[1]:.1%}); what both keep is {factor(times, 4)} times a's"
    )
