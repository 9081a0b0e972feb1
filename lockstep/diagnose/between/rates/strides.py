"""One learning-rate series that goes through another's schedule faster, or more slowly."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.rates.series_pair import FEWEST, Relation, SeriesPair
from lockstep.schedules.identify.pieces import cut, tolerance_of

__all__ = ["faster", "slower"]

Array = NDArray[np.float64]

MOST_TIMES = 64
"""Times as fast, at most, as one may go through the other's schedule."""
FASTER = "scheduler-steps-once-a-process"
SLOWER = "steps-count-epochs-or-updates"


def faster(pair: SeriesPair, *, is_curve: bool = True) -> Iterator[Relation]:
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


def _goes_on(pair: SeriesPair, times: int, reached: int) -> bool:
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


def slower(pair: SeriesPair) -> Iterator[Relation]:
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


def _tells(pair: SeriesPair, places: NDArray[np.int64]) -> bool:
    return bool(len(np.unique(pair.a[places])) >= FEWEST and pair.differs_T.sum() >= FEWEST)


def _held_text(pair: SeriesPair, times: int, phase: int, *, is_slower: bool) -> Relation:
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
