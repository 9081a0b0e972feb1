"""Learning rates that are another's but for a part of the updates."""

from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.between.rates.series_pair import FEWEST, Relation, SeriesPair, factor_of
from lockstep.numbers import factor, number, number_beside

__all__ = [
    "bounded",
    "constant",
    "falls_at_once",
    "from_an_update_on",
    "no_warmup",
    "one_update",
]

NOT_STEPPED = "schedule-is-never-stepped"


def one_update(pair: SeriesPair) -> Iterator[Relation]:
    """That all rates but one are equal."""
    places = np.flatnonzero(pair.differs_T)
    if len(places) != 1 or len(pair.a) <= FEWEST:
        return
    place = int(places[0])
    update = pair.update_at(place)
    rate = number_beside(pair.b[place], pair.a[place])
    where = "first" if place == 0 else "last" if place == len(pair.a) - 1 else ""
    of_other = number_beside(pair.a[place], pair.b[place])
    if where and not (where == "first" and pair.other.first):
        recorded = f"{where} recorded" if where == "last" else where
        text = f"{pair.mine.symbol}'s {recorded} learning rate is {rate} for {of_other}"
    else:
        text = f"{pair.noun} is {rate} for {of_other} at update {update}"
    page = "warmup-of-zero-updates" if place == 0 and pair.b[0] == 0 else ""
    text += f"; all others equal {pair.other.its}"
    predicted = pair.a.copy()
    predicted[place] = pair.b[place]
    yield Relation("lr-one-update", text, page, predicted)


def constant(pair: SeriesPair) -> Iterator[Relation]:
    """That a rate never changes where the other's does."""
    if np.ptp(pair.b) > pair.width or len(pair.b) < FEWEST or np.ptp(pair.a) <= pair.width:
        return
    rate = number(pair.b[0])
    low, high = number(pair.a.min()), number(pair.a.max())
    text = (
        f"{pair.noun} never changes: it is {rate} at every update, where {pair.other.its} goes "
        f"from {number(pair.a[0])} to {number(pair.a[-1])}"
    )
    if number(pair.a[0]) == number(pair.a[-1]):
        text = (
            f"{pair.noun} never changes: it is {rate} at every update, where {pair.other.its} lies "
            f"between {low} and {high}"
        )
    count = f"in these {len(pair.b)} updates"
    why = f"its scheduler is not stepped {count}, or it has none"
    if (np.diff(pair.a) >= 0).all():
        why = f"it has no warmup, or its scheduler is not stepped {count}"
    text += f" ({why})"
    yield Relation("lr-constant", text, NOT_STEPPED, pair.b.copy())


def no_warmup(pair: SeriesPair) -> Iterator[Relation]:
    """That a rate stays at the peak where the other's climbs to it, and is the same from there."""
    count = _prefix(pair)
    if count < 2 or len(pair.a) - count < FEWEST:
        return
    begin = pair.b[:count]
    rise = pair.a[: count + 1]
    is_rise = (np.diff(rise) > 0).all()
    is_flat = np.ptp(begin) <= pair.width and begin[0] >= pair.a.max() - pair.width
    if not is_rise or not is_flat:
        return
    predicted = np.concatenate([begin, pair.a[count:]])
    last = pair.update_at(count - 1)
    text = (
        f"{pair.mine.symbol} has no warmup: its rate is {number(begin[0])} up to update {last}, "
        f"where {pair.other.its} climbs from {number(pair.a[0])}; from update {last + 1} on both "
        "are equal"
    )
    yield Relation("lr-warmup", text, "warmup-of-zero-updates", predicted)


def _prefix(pair: SeriesPair) -> int:
    """How many rates differ at the beginning, where all others are equal; 0 where others do."""
    differs_T = pair.differs_T
    count = int(differs_T.sum())
    return count if differs_T[:count].all() else 0


def bounded(pair: SeriesPair) -> Iterator[Relation]:
    """b = max(a, c) or min(a, c)."""
    bounds = (
        (np.maximum, float(pair.b.min()), "fall below"),
        (np.minimum, float(pair.b.max()), ""),
    )
    for function, bound, verb in bounds:
        predicted = function(pair.a, bound)
        at_bound = int(pair.differs_T.sum())
        if not pair.are_equal(predicted, pair.b) or at_bound < 2:
            continue
        if (~pair.differs_T).sum() < FEWEST:
            continue
        extreme = pair.a.min() if verb else pair.a.max()
        text = (
            f"{pair.noun} does not {verb or 'rise above'} {number(bound)}, where {pair.other.its} "
            f"goes {'down' if verb else 'up'} to {number(extreme)}; all other rates are equal"
        )
        yield Relation("lr-bounded", text, "", predicted)
        return


def from_an_update_on(pair: SeriesPair) -> Iterator[Relation]:
    """b = a up to an update, and c a from there on; or the other way round."""
    differs_T = pair.differs_T
    count = int(differs_T.sum())
    updates = len(pair.a)
    if count < 2 or updates - count < 2:
        return
    if differs_T[updates - count :].all():
        part, word = slice(updates - count, updates), "from"
        update = pair.update_at(updates - count)
    elif differs_T[:count].all():
        part, word = slice(0, count), "up to"
        update = pair.update_at(count - 1)
    else:
        return
    times = factor_of(pair.b[part], pair.a[part], pair.width)
    if times is None:
        return
    predicted = pair.a.copy()
    predicted[part] *= times
    where = f"from update {update} on" if word == "from" else f"up to update {update}"
    rest = "before" if word == "from" else "after it"
    text = f"{where} {pair.noun} is {factor(times)} times {pair.other.its}; {rest} both are equal"
    yield Relation("lr-factor-in-part", text, "", predicted)


def falls_at_once(pair: SeriesPair) -> Iterator[Relation]:
    """That rates fall from the first on, where the other's climb."""
    is_rise = np.diff(pair.a) > pair.width
    rising = int(is_rise.argmin()) if not is_rise.all() else len(is_rise)
    mine = np.diff(pair.b[: rising + 1])
    if rising < FEWEST or not (mine < 0).all():
        return
    text = (
        f"{pair.mine.symbol} has no warmup: its rate falls from {number(pair.b[0])} at update 0 "
        f"on, where {pair.other.its} climbs from {number(pair.a[0])}"
    )
    yield Relation("lr-warmup", text, "warmup-of-zero-updates", pair.b.copy())
