"""What one learning-rate series is of another: a factor, a shift, a stride, a part that differs.

Each relation is a statement about all updates that were recorded, which the numbers prove. Those
that say most come first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.rates.series import RateSeries, width_of
from lockstep.diagnose.causes.precision import rounded_to
from lockstep.numbers import factor, number, number_beside
from lockstep.schedules.identify.pieces import cut, tolerance_of

__all__ = ["Relation", "partial_relations", "relations"]

Array = NDArray[np.float64]

FEWEST = 3
"""Updates with other rates that a relation must give."""
MOST_LATE = 64
"""Updates by which one series may come after another, beside an epoch's."""
MOST_TIMES = 64
"""Times as fast, at most, as one may go through the other's schedule."""
ALIKE = 1e-9
"""Distance from 1 within which a factor is 1."""
ROUNDED = ("float32", "bfloat16", "float16")
LATE = "scheduler-state-forgotten"
EARLY = "scheduler-steps-before-the-optimizer"
FASTER = "scheduler-steps-once-a-process"
SLOWER = "steps-count-epochs-or-updates"
SCALED = "learning-rate-times-processes"
CHAINED = "chained-schedulers-lose-the-peak"
IN_FLOAT32 = "schedule-in-float32-under-jit"
NOT_STEPPED = "schedule-is-never-stepped"


class Relation(NamedTuple):
    """A cause of other rates: its key, its text, and the rates that it gives."""

    key: str
    text: str
    page: str
    rates_T: Array


@dataclass(frozen=True)
class _Pair:
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
        return bool((np.abs(rates - others) <= self.width).all())


def relations(mine: RateSeries, other: RateSeries, noun: str, epoch: int = 0) -> Iterator[Relation]:
    """What the rates of `mine` are of those of `other`, the most telling first.

    Args:
        mine: the series to explain.
        other: the series beside it, of as many updates.
        noun: the words for `mine`, such as "b's learning rate".
        epoch: updates of an epoch, where that is known.
    """
    pair = _Pair(mine, other, noun, epoch)
    if len(pair.a) != len(pair.b):
        return
    if not pair.differs_T.any():
        yield from _rounding(pair)
        return
    for relation in RELATIONS:
        yield from relation(pair)


# ---- digits


def _rounding(pair: _Pair) -> Iterator[Relation]:
    """That rates differ in their last digits alone."""
    yield from _fewer_digits(pair)
    apart = float(np.abs(pair.b - pair.a).max())
    if apart:
        share = number(apart / np.abs(pair.a).max(), 2)
        text = (
            f"{pair.noun} is {pair.other.its} up to rounding, within {share} of the largest: the "
            "same schedule in another arithmetic"
        )
        yield Relation("lr-rounded", text, IN_FLOAT32, pair.b)


def _fewer_digits(pair: _Pair) -> Iterator[Relation]:
    """That rates are the other's rounded to a dtype."""
    for name in ROUNDED:
        low = pair.a.astype(np.float16).astype(np.float64)
        if name != "float16":
            low = rounded_to(name, pair.a)
        if (low == pair.b).all() and (low != pair.a).any():
            text = f"{pair.noun} is {pair.other.its} rounded to {name}"
            yield Relation("lr-rounded", text, IN_FLOAT32, low)
            return


# ---- factors and shifts


def _one_factor(pair: _Pair) -> Iterator[Relation]:
    """b[t] = c a[t] at every update; where a rate is 0 both are."""
    times = _factor_of(pair.b, pair.a, pair.width)
    if times is not None:
        text = f"{pair.noun} is {factor(times)} times {pair.other.its} at every update"
        page = SCALED
        slopes = np.diff(pair.a)
        if len(slopes) > 1 and slopes[0] > 0 and np.ptp(slopes) <= 4 * pair.width:
            text += (
                " (both only climb in this recording, and a warmup of another length does as much)"
            )
            page = ""
        yield Relation("lr-factor", text, page, times * pair.a)


def _factor_of(mine: Array, other: Array, width: float) -> float | None:
    """The number c, other than 0, for which `mine` is c times `other`; None where there is none."""
    largest = int(np.abs(other).argmax())
    if not other[largest] or not mine[largest]:
        return None
    times = float(mine[largest] / other[largest])
    within = width * max(1.0, abs(times))
    return times if (np.abs(times * other - mine) <= within).all() else None


def _shifts(pair: _Pair) -> Iterator[tuple[int, Array, Array]]:
    """How many updates late (below 0: early), and the rates of both that belong together."""
    updates = len(pair.a)
    steps = [step for step in range(1, MOST_LATE + 1) if updates - step >= FEWEST]
    if pair.epoch > MOST_LATE and updates - pair.epoch >= FEWEST:
        steps.append(pair.epoch)
    for step in steps:
        yield step, pair.b[step:], pair.a[:-step]
        yield -step, pair.b[:-step], pair.a[step:]


def _shift(pair: _Pair) -> Iterator[Relation]:
    """b[t] = a[t - k] at every update that both have."""
    for late, mine, other in _shifts(pair):
        step = abs(late)
        overlap = len(mine)
        shared = pair.differs_T[step:] if late > 0 else pair.differs_T[:-step]
        if not pair.are_equal(mine, other) or not shared.any() or overlap < len(pair.a) / 2:
            continue
        if np.ptp(other) <= pair.width:
            continue
        if late > 0 and not _begins_alike(pair, step):
            continue
        if step > 1 and _is_without_climb(pair, late):
            return
        predicted = pair.b.copy()
        if late > 0:
            predicted[step:] = other
        else:
            predicted[:-step] = other
        yield Relation(*_shift_in_words(pair, late), predicted)
        return


def _is_without_climb(pair: _Pair, late: int) -> bool:
    """Whether one side begins at the peak that the other climbs to in just these updates: it has
    no warmup.
    """
    climber, peak = (pair.b, pair.a[0]) if late > 0 else (pair.a, pair.b[0])
    rise = climber[: abs(late)]
    is_peak = abs(peak - max(pair.a.max(), pair.b.max())) <= pair.width
    return bool(is_peak and (np.diff(rise) > 0).all())


def _begins_alike(pair: _Pair, step: int) -> bool:
    """Whether a late series begins with the other's first rate, or with one below all, or goes on
    backwards as the other's first updates do.
    """
    begin = pair.b[:step]
    is_held = (np.abs(begin - pair.a[0]) <= pair.width).all()
    if is_held or step == 1 or not begin.any():
        return True
    slope = pair.a[1] - pair.a[0]
    back = pair.a[0] - slope * np.arange(step, 0, -1)
    return bool((np.abs(begin - back) <= pair.width * step).all())


def _shift_in_words(pair: _Pair, late: int) -> tuple[str, str, str]:
    step = abs(late)
    word = "late" if late > 0 else "early"
    count = "one update" if step == 1 else f"{step} updates"
    if step == pair.epoch and step > 1:
        count = f"one epoch ({step} updates)"
    where = "before" if late > 0 else "after"
    place = f"the update {where}" if step == 1 else f"{step} updates {where}"
    why = "a step of its scheduler is lost, or comes after the update that it is for"
    if late < 0:
        why = "its scheduler is stepped before the optimizer, or once too often"
    text = f"{pair.noun} comes {count} {word}: it is {pair.other.its} of {place} ({why})"
    key = f"lr-one-{word}" if step == 1 else f"lr-{word}"
    return key, text, LATE if late > 0 else EARLY


def _factor_and_shift(pair: _Pair) -> Iterator[Relation]:
    """b[t] = c a[t - k], and b stays at c a[0] until then: without that, another length or slope is
    a factor and a shift as well.
    """
    for late, mine, other in _shifts(pair):
        step = abs(late)
        if step > FEWEST or len(mine) < FEWEST + 1:
            continue
        times = _factor_of(mine, other, pair.width)
        if times is None or abs(times - 1) < ALIKE:
            continue
        if late < 0 or np.ptp(pair.b[: step + 1]) > pair.width:
            continue
        yield _times_late(pair, step, times, other)
        return


def _times_late(pair: _Pair, step: int, times: float, other: Array) -> Relation:
    predicted = np.concatenate([pair.b[:step], times * other])
    count = "one update" if step == 1 else f"{step} updates"
    c = factor(times)
    text = (
        f"{pair.noun} is {c} times {pair.other.its} from the first update, and {count} late from "
        f"update {step} on: {pair.mine.symbol}[t] = {c} {pair.other.symbol}[t - {step}]"
    )
    if times < 1:
        text += " (as where chained schedulers leave the warmup's start factor in)"
    return Relation("lr-factor-and-shift", text, CHAINED if times < 1 else "", predicted)


# ---- strides


def _faster(pair: _Pair, *, is_curve: bool = True) -> Iterator[Relation]:
    """b[t] = a[k t], for as long as a was recorded; then b stays, or goes on by a's law."""
    updates = len(pair.a)
    if _is_one_rise(pair.a, pair.width) == is_curve:
        return
    for times in range(2, min(MOST_TIMES, (updates - 1) // FEWEST) + 1):
        strided = pair.a[::times]
        reached = len(strided)
        mine = pair.b[:reached]
        if not pair.are_equal(mine, strided) or pair.differs_T[:reached].sum() < FEWEST:
            continue
        if not _goes_on(pair, times, reached):
            continue
        predicted = np.concatenate([strided, pair.b[reached:]])
        formula = f"{pair.mine.symbol}[t] = {pair.other.symbol}[{times} t]"
        text = (
            f"{pair.mine.symbol} goes through {pair.other.schedule} {times} times as fast: "
            f"{formula} (as where a scheduler is stepped once for each of {times} processes or "
            "micro-batches)"
        )
        yield Relation("lr-stride", text, FASTER, predicted)
        return


def _is_one_rise(rates_T: Array, width: float) -> bool:
    """Whether the rates rise in one line and then stay: a stride of that is a shorter warmup."""
    slopes = np.diff(rates_T)
    rising = slopes[: int((slopes > width).sum())]
    is_line = len(rising) > 0 and np.ptp(rising) <= 4 * width and (rising > 0).all()
    return bool(is_line and (np.abs(slopes[len(rising) :]) <= width).all())


def _goes_on(pair: _Pair, times: int, reached: int) -> bool:
    """Whether what follows the end of the other's recording is held, or by the other's law."""
    rest = pair.b[reached:]
    if not len(rest):
        return True
    # the end of a schedule may lie a few updates on
    for held in range(min(3, len(rest))):
        if np.ptp(rest[held:]) <= pair.width and held < len(rest):
            return True
    if (np.abs(np.diff(pair.b[:reached], 2)) > 8 * pair.width).sum() >= FEWEST:
        return True  # a curve that is met at so many updates is no other's
    last = cut(pair.a, tolerance_of(pair.a, is_float32=pair.other.is_float32))[-1]
    if last.law is None:
        return False
    places = times * np.arange(reached, len(pair.b), dtype=np.float64)
    law = last.law.at(places)
    return bool((np.abs(law - rest) <= 1e-6 * np.abs(pair.a).max()).all())


def _slower(pair: _Pair) -> Iterator[Relation]:
    """b[t] = a[(t + phase) // k], or a's rate at the start of each k updates."""
    t = np.arange(len(pair.a))
    changes = 1 + np.flatnonzero(np.abs(np.diff(pair.b)) > pair.width)
    if len(changes) < FEWEST - 1 or len(changes) > len(t) / 2:
        return
    whole = int(np.gcd.reduce(np.diff(changes)))
    for times in (k for k in range(whole, 1, -1) if whole % k == 0):
        phase = int(-changes[0] % times)
        blocks = (t + phase) // times
        starts = np.maximum(blocks * times - phase, 0)
        # few steps lie on a grid of some width by chance
        others = (np.abs(np.diff(pair.a)) > pair.width).sum()
        is_grid = len(changes) * times >= len(t) / 2 and others >= 2 * len(changes)
        for places in (blocks, starts) if is_grid else (blocks,):
            if pair.are_equal(pair.b, pair.a[places]) and _tells(pair, places):
                yield _held_text(pair, times, phase, is_slower=places is blocks)
                return


def _tells(pair: _Pair, places: NDArray[np.int64]) -> bool:
    return bool(len(np.unique(pair.a[places])) >= FEWEST and pair.differs_T.sum() >= FEWEST)


def _held_text(pair: _Pair, times: int, phase: int, *, is_slower: bool) -> Relation:
    mine, other = pair.mine.symbol, pair.other.symbol
    clock = f"(t + {phase}) // {times}" if phase else f"t // {times}"
    if times == pair.epoch:
        why = f"its scheduler is stepped once an epoch of {times} updates"
    else:
        why = f"its scheduler is stepped at every {_ordinal(times)} update"
    t = np.arange(len(pair.a))
    blocks = (t + phase) // times
    if is_slower:
        text = (
            f"{mine} goes through {pair.other.schedule} {times} times as slowly: "
            f"{mine}[t] = {other}[{clock}] ({why})"
        )
        return Relation("lr-stride", text, SLOWER, pair.a[blocks])
    start = f"{times} ({clock}) - {phase}" if phase else f"{times} ({clock})"
    text = (
        f"{pair.noun} stays for {times} updates at a time: {mine}[t] = {other}[{start}] ({why}, "
        "and counts updates)"
    )
    places = np.maximum(blocks * times - phase, 0)
    return Relation("lr-held", text, SLOWER, pair.a[places])


def _ordinal(count: int) -> str:
    if count % 100 in (11, 12, 13):
        return f"{count}th"
    return f"{count}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(count % 10, 'th') }"


# ---- parts that differ


def _one_update(pair: _Pair) -> Iterator[Relation]:
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


def _constant(pair: _Pair) -> Iterator[Relation]:
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


def _no_warmup(pair: _Pair) -> Iterator[Relation]:
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


def _prefix(pair: _Pair) -> int:
    """How many rates differ at the beginning, where all others are equal; 0 where others do."""
    differs_T = pair.differs_T
    count = int(differs_T.sum())
    return count if differs_T[:count].all() else 0


def _bounded(pair: _Pair) -> Iterator[Relation]:
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


def _from_an_update_on(pair: _Pair) -> Iterator[Relation]:
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
    times = _factor_of(pair.b[part], pair.a[part], pair.width)
    if times is None:
        return
    predicted = pair.a.copy()
    predicted[part] *= times
    where = f"from update {update} on" if word == "from" else f"up to update {update}"
    rest = "before" if word == "from" else "after it"
    text = f"{where} {pair.noun} is {factor(times)} times {pair.other.its}; {rest} both are equal"
    yield Relation("lr-factor-in-part", text, "", predicted)


RELATIONS: tuple[Callable[[_Pair], Iterator[Relation]], ...] = (
    _fewer_digits,
    _one_factor,
    _shift,
    _one_update,
    _faster,
    _slower,
    _factor_and_shift,
    _no_warmup,
    _constant,
    _bounded,
)
"""Relations that say all there is to say."""


def partial_relations(mine: RateSeries, other: RateSeries, noun: str) -> Iterator[Relation]:
    """Relations that hold, and say less than the difference of two schedules does."""
    pair = _Pair(mine, other, noun, 0)
    if len(pair.a) == len(pair.b) and pair.differs_T.any():
        yield from _faster(pair, is_curve=False)
        yield from _from_an_update_on(pair)
        yield from _falls_at_once(pair)


def _falls_at_once(pair: _Pair) -> Iterator[Relation]:
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
