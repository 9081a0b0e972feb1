"""What one learning-rate series is of another: a factor, a shift, a stride, a part that differs.

Each relation is a statement about all updates that were recorded, which the numbers prove. Those
that say most come first.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.rates import parts, strides
from lockstep.diagnose.between.rates.series import RateSeries
from lockstep.diagnose.between.rates.series_pair import FEWEST, Relation, SeriesPair, factor_of
from lockstep.diagnose.causes.precision import rounded_to
from lockstep.numbers import factor, number

__all__ = ["Relation", "partial_relations", "relations"]

Array = NDArray[np.float64]

MOST_LATE = 64
"""Updates by which one series may come after another, beside an epoch's."""
ALIKE = 1e-9
"""Distance from 1 within which a factor is 1."""
ROUNDED = ("float32", "bfloat16", "float16")
LATE = "scheduler-state-forgotten"
EARLY = "scheduler-steps-before-the-optimizer"
SCALED = "learning-rate-times-processes"
CHAINED = "chained-schedulers-lose-the-peak"
IN_FLOAT32 = "schedule-in-float32-under-jit"


def relations(mine: RateSeries, other: RateSeries, noun: str, epoch: int = 0) -> Iterator[Relation]:
    """What the rates of `mine` are of those of `other`, the most telling first.

    Args:
        mine: the series to explain.
        other: the series beside it, of as many updates.
        noun: the words for `mine`, such as "b's learning rate".
        epoch: updates of an epoch, where that is known.
    """
    pair = SeriesPair(mine, other, noun, epoch)
    if len(pair.a) != len(pair.b):
        return
    if not pair.differs_T.any():
        yield from _rounding(pair)
        return
    for relation in RELATIONS:
        yield from relation(pair)


# ---- digits


def _rounding(pair: SeriesPair) -> Iterator[Relation]:
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


def _fewer_digits(pair: SeriesPair) -> Iterator[Relation]:
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


def _one_factor(pair: SeriesPair) -> Iterator[Relation]:
    """b[t] = c a[t] at every update; where a rate is 0 both are."""
    times = factor_of(pair.b, pair.a, pair.width)
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


def _shifts(pair: SeriesPair) -> Iterator[tuple[int, Array, Array]]:
    """How many updates late (below 0: early), and the rates of both that belong together."""
    updates = len(pair.a)
    steps = [step for step in range(1, MOST_LATE + 1) if updates - step >= FEWEST]
    if pair.epoch > MOST_LATE and updates - pair.epoch >= FEWEST:
        steps.append(pair.epoch)
    for step in steps:
        yield step, pair.b[step:], pair.a[:-step]
        yield -step, pair.b[:-step], pair.a[step:]


def _shift(pair: SeriesPair) -> Iterator[Relation]:
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


def _is_without_climb(pair: SeriesPair, late: int) -> bool:
    """Whether one side begins at the peak that the other climbs to in just these updates: it has
    no warmup.
    """
    climber, peak = (pair.b, pair.a[0]) if late > 0 else (pair.a, pair.b[0])
    rise = climber[: abs(late)]
    is_peak = abs(peak - max(pair.a.max(), pair.b.max())) <= pair.width
    return bool(is_peak and (np.diff(rise) > 0).all())


def _begins_alike(pair: SeriesPair, step: int) -> bool:
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


def _shift_in_words(pair: SeriesPair, late: int) -> tuple[str, str, str]:
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


def _factor_and_shift(pair: SeriesPair) -> Iterator[Relation]:
    """b[t] = c a[t - k], and b stays at c a[0] until then: without that, another length or slope is
    a factor and a shift as well.
    """
    for late, mine, other in _shifts(pair):
        step = abs(late)
        if step > FEWEST or len(mine) < FEWEST + 1:
            continue
        times = factor_of(mine, other, pair.width)
        if times is None or abs(times - 1) < ALIKE:
            continue
        if late < 0 or np.ptp(pair.b[: step + 1]) > pair.width:
            continue
        yield _times_late(pair, step, times, other)
        return


def _times_late(pair: SeriesPair, step: int, times: float, other: Array) -> Relation:
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


RELATIONS: tuple[Callable[[SeriesPair], Iterator[Relation]], ...] = (
    _fewer_digits,
    _one_factor,
    _shift,
    parts.one_update,
    strides.faster,
    strides.slower,
    _factor_and_shift,
    parts.no_warmup,
    parts.constant,
    parts.bounded,
)
"""Relations that say all there is to say."""


def partial_relations(mine: RateSeries, other: RateSeries, noun: str) -> Iterator[Relation]:
    """Relations that hold, and say less than the difference of two schedules does."""
    pair = SeriesPair(mine, other, noun, 0)
    if len(pair.a) == len(pair.b) and pair.differs_T.any():
        yield from strides.faster(pair, is_curve=False)
        yield from parts.from_an_update_on(pair)
        yield from parts.falls_at_once(pair)
