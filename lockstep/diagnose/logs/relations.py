"""How two series that part are related: a factor, an offset, a shift, another pace, a bound.

Every number of a log stands for an interval: its digits and float32 arithmetic leave it open by its
width. A relation holds if its free number, where it has one, fits the intervals of all steps at
once. Nothing is fitted by least squares.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.logs.align import Numbers, SeriesPair
from lockstep.logs.column_names import LOSS, NORM, RATE
from lockstep.numbers import factor, number

__all__ = ["Relation", "relation_of"]

FEWEST = 3
"""Steps that a factor or an offset must hold at."""
SHARP = 1e-2
"""Relative width to which the steps must settle a factor."""
SHIFTED = 8
"""Steps that a shift must hold at; each number is right by itself, so that few suffice."""
FARTHEST = 64
"""Steps by which a series may be shifted."""
PROBES = 64
"""Numbers that are tried before all are."""
PACES = 64
"""How many times as fast one side's schedule may run."""
CHANCE = 0.05
"""Share of intervals of that width that hold a whole factor by chance; wider ones name none."""
LARGEST = 2**17
"""The largest whole factor that is named; gradient scalers begin with 2**16."""
BITS = 1.4426950408889634
"""1 / ln 2: bits for a nat."""


@dataclass(frozen=True)
class Relation:
    """How b's numbers follow from a's."""

    kind: str
    """factor, factor at the start, offset, shift, pace, held, bound, mean, average or schedule."""
    text: str
    value: float | None = None
    """The factor, the offset, the steps of the shift, the pace, the steps held, or the bound."""
    since: int | None = None
    """The step from which on it holds; None where it holds at all common steps."""
    only_logged: bool = False
    """Whether it says how one side logs, so that the trainings may be the same."""


def relation_of(pair: SeriesPair) -> Relation | None:
    """The simplest relation that all common steps obey, or those from the first difference on."""
    if pair.first is None:
        return None
    finite = _finite(pair)
    for find in (_factor_throughout, _bound, _shift, _pace, _held, _offset_throughout):
        relation = find(finite)
        if relation is not None:
            return relation
    return _since(finite)


def _finite(pair: SeriesPair) -> SeriesPair:
    """The pair up to the first step at which a side has no number."""
    if pair.is_judged_N.all():
        return pair
    end = int(np.argmin(pair.is_judged_N))
    last = pair.a.steps_N[end - 1] if end else pair.a.steps_N[0] - 1
    return SeriesPair(pair.name, _until(pair.all_a, last), _until(pair.all_b, last))


def _until(numbers: Numbers, step: int) -> Numbers:
    return numbers.at(np.flatnonzero(numbers.steps_N <= step))


# ---- one number


def _factor_throughout(pair: SeriesPair) -> Relation | None:
    value = _factor(pair.a, pair.b)
    if value is None:
        return None
    return Relation("factor", _factor_text(pair.name, value), value)


def _offset_throughout(pair: SeriesPair) -> Relation | None:
    value = _offset(pair.a, pair.b)
    if value is None or pair.name == RATE:
        return None
    return Relation("offset", _offset_text(pair.name, value), value)


def _since(pair: SeriesPair) -> Relation | None:
    """A factor of a rate from the first difference on; of a loss, a factor at the start alone."""
    first = pair.first
    if first is None:
        return None
    rest = np.arange(first, pair.steps)
    step = int(pair.a.steps_N[first])
    if pair.name == RATE and first and len(rest) >= FEWEST:
        value = _factor(pair.a.at(rest), pair.b.at(rest))
        if value is not None:
            text = f"from step {step} on b's is {factor(value)} times a's"
            return Relation("factor", text, value, since=step)
    if pair.name in (LOSS, NORM) and first == 0:
        return _first_factor(pair)
    return None


def _first_factor(pair: SeriesPair) -> Relation | None:
    """A whole factor of the first number alone: the trainings may part by it afterwards."""
    one = np.array([0])
    interval = _factor_interval(pair.a.at(one), pair.b.at(one))
    if interval is None:
        return None
    low, high = interval
    whole = _whole(low, high)
    if whole is None:
        return None
    step = int(pair.a.steps_N[0])
    shown, count = _named_factor(pair.name, whole)
    text = f"b's is {shown} at step {step}, the first, and not later{count}"
    return Relation("factor at the start", text, whole, since=step)


def _factor(a: Numbers, b: Numbers) -> float | None:
    """The factor that makes all of a's numbers b's, or None."""
    counting = np.flatnonzero(np.abs(a.values_N) > a.widths_N)
    if len(counting) < FEWEST:
        return None
    interval = _factor_interval(a.at(counting), b.at(counting))
    if interval is None:
        return None
    low, high = interval
    if high - low > SHARP * max(abs(low), abs(high)) or low <= 0 <= high or low <= 1 <= high:
        return None
    value = _whole(low, high) or 0.5 * (low + high)
    # where a has no number but 0 b may not have one either
    rest_N = np.abs(b.values_N - value * a.values_N) <= b.widths_N + abs(value) * a.widths_N
    return value if rest_N.all() else None


def _factor_interval(a: Numbers, b: Numbers) -> tuple[float, float] | None:
    """The factors that fit all numbers; a's are none of them 0."""
    sign_N = np.sign(a.values_N)
    size_N = np.abs(a.values_N)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        lows_N = sign_N * b.values_N - b.widths_N
        highs_N = sign_N * b.values_N + b.widths_N
        low_N = np.where(
            lows_N >= 0, lows_N / (size_N + a.widths_N), lows_N / (size_N - a.widths_N)
        )
        high_N = np.where(
            highs_N >= 0, highs_N / (size_N - a.widths_N), highs_N / (size_N + a.widths_N)
        )
    low, high = float(low_N.max()), float(high_N.min())
    return (low, high) if np.isfinite([low, high]).all() and low <= high else None


def _whole(low: float, high: float) -> float | None:
    """The whole number, or the fraction of one, in an interval that holds one by no chance."""
    if low <= 0:
        return None
    if 0.5 * (low + high) < 1:
        inverse = _whole(1 / high, 1 / low) if high < 1 else None
        return None if inverse is None else 1 / inverse
    middle = 0.5 * (low + high)
    # whole numbers are 1 apart, powers of two half of themselves
    for count, distance in ((round(middle), 1.0), (2 ** round(np.log2(middle)), 0.5 * middle)):
        is_sure = high - low <= CHANCE * distance
        if is_sure and low <= count <= high and 1 < count <= LARGEST:
            return float(count)
    return None


def _offset(a: Numbers, b: Numbers) -> float | None:
    """The offset that makes all of a's numbers b's, or None."""
    if len(a.values_N) < FEWEST:
        return None
    widths_N = a.widths_N + b.widths_N
    differences_N = b.values_N - a.values_N
    low, high = float((differences_N - widths_N).max()), float((differences_N + widths_N).min())
    if low > high or low <= 0 <= high or high - low > SHARP * max(abs(low), abs(high)):
        return None
    return 0.5 * (low + high)


def _factor_text(name: str, value: float) -> str:
    shown, count = _named_factor(name, value)
    return f"b's is {shown} at every common step{count}"


def _named_factor(name: str, value: float) -> tuple[str, str]:
    """The factor in words, and what it may count: "8 times a's", ", as where b sums over 8 ..."."""
    side, other, times = ("b", "a", value) if abs(value) >= 1 else ("a", "b", 1 / value)
    whole = round(times)
    is_whole = abs(times - whole) <= 1e-9 * whole and whole >= 2
    shown = f"{factor(value)} times a's" if value >= 1 or not is_whole else f"1/{whole} of a's"
    if name == RATE and is_whole:
        return shown, f", as of a rate scaled by {whole} processes or micro-batches on one side"
    if is_whole and whole >= 256 and whole & (whole - 1) == 0:
        count = (
            f", as of a gradient scaler's factor left in {side}'s, or of a sum over {whole} rows"
        )
        return shown, count
    if is_whole:
        half = ", or of a square without its half" if whole == 2 and name == LOSS else ""
        count = f", as where {side} sums over {whole} micro-batches, rows or processes"
        return shown, f"{count} and {other} takes the mean{half}"
    if name.endswith(LOSS) and abs(times / BITS - 1) < 1e-4:
        return shown, f", as of bits in {side} and nats in {other}"
    return shown, ""


def _offset_text(name: str, value: float) -> str:
    sign = "more" if value > 0 else "less"
    hint = ", as of a penalty or a constant that one side adds" if name.endswith(LOSS) else ""
    return f"b's is {number(abs(value))} {sign} than a's at every common step{hint}"


# ---- other steps


def _shift(pair: SeriesPair) -> Relation | None:
    """b's numbers are a's of another step."""
    if pair.steps < SHIFTED:
        return None
    spacing = pair.b.interval if pair.a.interval == pair.b.interval else 1
    for distance in range(1, FARTHEST + 1):
        for steps in (distance * spacing, -distance * spacing):
            moved_a = pair.all_a.moved(steps)
            if not _may_agree(moved_a, pair.all_b):
                continue
            moved = SeriesPair(pair.name, moved_a, pair.all_b)
            if not _mends(pair, moved, SHIFTED, pair.steps // 2):
                continue
            way = "later" if steps > 0 else "earlier"
            count = f"{abs(steps)} step{'' if abs(steps) == 1 else 's'}"
            text = f"b's is a's, {count} {way}{_why_shifted(pair, steps)}"
            return Relation("shift", text, float(steps))
    return None


def _may_agree(a: Numbers, b: Numbers) -> bool:
    """Whether some of b's numbers, evenly spread, agree with those that a has at their steps."""
    few = b.at(np.arange(0, len(b.steps_N), max(1, len(b.steps_N) // PROBES)))
    places_N = np.minimum(np.searchsorted(a.steps_N, few.steps_N), len(a.steps_N) - 1)
    there = a.at(places_N)
    gaps_N = np.abs(there.values_N - few.values_N)
    return bool((gaps_N <= there.widths_N + few.widths_N)[there.steps_N == few.steps_N].all())


def _mends(pair: SeriesPair, other: SeriesPair, fewest: int, at_least: int) -> bool:
    """Whether other steps make all numbers agree, among them some that parted.

    Numbers that are the same at all steps would agree at any other.
    """
    if other.steps < max(fewest, at_least) or other.parts_N.any():
        return False
    parted_N = pair.b.steps_N[pair.parts_N]
    return bool(np.isin(parted_N, other.b.steps_N).any())


def _why_shifted(pair: SeriesPair, steps: int) -> str:
    if pair.name != RATE or abs(steps) != 1:
        return ""
    ahead, behind = ("a", "b") if steps > 0 else ("b", "a")
    return (
        f": {ahead} reads the rate after the scheduler's step (the next one's), or {behind}'s "
        "schedule begins one update late"
    )


def _pace(pair: SeriesPair) -> Relation | None:
    """The rate of one side is the other's, whole times as many steps on."""
    if pair.name != RATE or pair.steps < SHIFTED:
        return None
    for pace in range(2, PACES + 1):
        for fast, slow, side in ((pair.all_b, pair.all_a, "b"), (pair.all_a, pair.all_b, "a")):
            if _runs_faster(pair, fast, slow, pace):
                text = (
                    f"{side}'s schedule runs {pace} times as fast: its rate at step s is the "
                    f"other's at step {pace} s, as where it steps once for each of {pace} "
                    f"micro-batches or processes, or is given 1/{pace} of the updates"
                )
                return Relation("pace", text, float(pace if side == "b" else 1 / pace))
    return None


def _runs_faster(pair: SeriesPair, fast: Numbers, slow: Numbers, pace: int) -> bool:
    start = int(min(fast.steps_N[0], slow.steps_N[0]))
    for first in (start, 0):
        steps_N = first + pace * (fast.steps_N - first)
        moved = replace(fast, steps_N=steps_N)
        if not _may_agree(slow, moved):
            continue
        other = SeriesPair(pair.name, slow, moved)
        if other.steps < SHIFTED or other.parts_N.any():
            continue
        values_N = other.a.values_N
        if len(np.unique(values_N)) >= SHIFTED:  # a curve, and no plateau
            return True
    return False


def _held(pair: SeriesPair) -> Relation | None:
    """The rate of one side is the other's of some steps, and stays between them."""
    if pair.name != RATE or pair.steps < SHIFTED or (np.diff(pair.a.steps_N) != 1).any():
        return None
    for held, other, side, whose in ((pair.b, pair.a, "b", "a"), (pair.a, pair.b, "a", "b")):
        changes_N = np.flatnonzero(np.diff(held.values_N)) + 1
        lengths_N = np.diff(changes_N)
        if len(lengths_N) < FEWEST or lengths_N[0] < 2 or (lengths_N != lengths_N[0]).any():
            continue
        if np.count_nonzero(np.diff(other.values_N)) < 2 * len(changes_N):  # steps by itself
            continue
        starts_N = np.concatenate([[0], changes_N])
        gaps_N = np.abs(held.values_N - other.values_N)[starts_N]
        if (gaps_N > pair.allowed_N[starts_N]).any():
            continue
        count = int(lengths_N[0])
        text = (
            f"{side}'s is {whose}'s of every {count} steps, and stays between them, as where its "
            f"schedule steps once an epoch or once for {count} updates"
        )
        return Relation("held", text, float(count))
    return None


# ---- a bound


def _bound(pair: SeriesPair) -> Relation | None:
    """One side's norm is the other's up to a bound."""
    if pair.name != NORM:
        return None
    for cut, whole, side, other in ((pair.b, pair.a, "b", "a"), (pair.a, pair.b, "a", "b")):
        value = _least_upper_bound(cut, whole, pair.parts_N)
        if value is not None:
            text = (
                f"{side}'s is {other}'s cut at {number(value)}: {side} logs the norm after "
                f"clipping and {other} before, or {other} does not clip"
            )
            return Relation("bound", text, value)
    return None


def _least_upper_bound(cut: Numbers, whole: Numbers, parts_N: NDArray[np.bool_]) -> float | None:
    """The bound that makes the numbers of `whole` those of `cut`; None where there is none."""
    at_bound = np.flatnonzero(parts_N)
    if len(at_bound) < FEWEST:
        return None
    bounded = cut.at(at_bound)
    # PyTorch clips to c / (norm + 1e-6), a little less than c
    slack_N = bounded.widths_N + 1e-5 * np.abs(bounded.values_N)
    low, high = (bounded.values_N - slack_N).max(), (bounded.values_N + slack_N).min()
    if low > high or (whole.values_N[at_bound] <= high).any():
        return None
    return float(f"{0.5 * (low + high):.4g}")
