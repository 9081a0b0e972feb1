"""Dropout, as one side's output shows it beside the other's."""

from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.places import Place, place_of
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.local.difference import likely
from lockstep.diagnose.local.drops import CHANCE, FEWEST, SAME, drop_between, words_of_drop
from lockstep.numbers import factor

__all__ = ["dropped"]

IDEA = "dropout"
PAGE = "dropout-left-on"


def dropped(pair: LoopPair) -> Iterator[Explanation]:
    """That a side drops a share of what the other keeps, or that both drop other elements."""
    place = place_of(pair)
    if place is None or not place.is_finite:
        return
    mine, other = pair.mine.name, pair.other.name
    drop = drop_between(place.mine, place.other, max(SAME, place.tolerance))
    if drop is None:
        if mine == "b":
            yield from _both_drop(place)
        return
    text = words_of_drop(drop, place.layer, mine, other)
    if text is None:
        return
    predicted = {place.layer: np.where(drop.kept, drop.times * place.other, 0.0)}
    if _is_beside_training(pair):
        text = f"dropout is on in {mine}'s evaluation: {text}"
        yield Explanation("dropout-in-evaluation", text, predicted, IDEA, PAGE, mine)
    else:
        yield Explanation("dropout", f"dropout: {text}", predicted, IDEA, PAGE)


def _is_beside_training(pair: LoopPair) -> bool:
    """Whether loss and gradients of the update are recorded and equal, so that what differs is no
    part of its training pass.
    """
    gradients = [side.tensors("gradients", pair.update) for side in (pair.mine, pair.other)]
    losses = [side.tensors("loss", pair.update) for side in (pair.mine, pair.other)]
    if not all(gradients) or not all(losses):
        return False
    return not pair.differing("gradients") and not pair.differing("loss")


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
