"""Whether one side logs means or moving averages of what the other logs step by step."""

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.logs.align import Numbers, SeriesPair
from lockstep.diagnose.logs.relations import Relation
from lockstep.numbers import number

__all__ = ["average_of"]

FEWEST = 4
"""Numbers that a mean must explain."""
SMOOTHED = 8
"""Numbers that a moving average, whose factor is measured, must explain."""
TELLING = 10.0
"""How far beyond what is allowed single numbers must be apart for an average to explain them."""
WINDOWS = 256
"""Numbers of the longest running mean."""
LOGITS = [0.5 * step for step in range(-4, 19)]
"""Decays from 0.12 to 0.9999 as log(d / (1 - d)), from which the nearest is refined."""
FITTED = 4000
"""Numbers that a decay is measured by; all must obey it."""
SUMS = 4.0
"""How many widths a mean of cut numbers may be off by: their errors average out."""


def average_of(pair: SeriesPair) -> Relation | None:
    """How one side averages the other's numbers; None where it does not."""
    parted_N = pair.parts_N & np.isfinite(pair.gaps_N)
    beyond_N = pair.gaps_N[parted_N] > TELLING * pair.allowed_N[parted_N]
    if beyond_N.sum() < FEWEST:  # coarse digits would let any average through
        return None
    for fine, coarse, side, other in (
        (pair.all_a, pair.all_b, "b", "a"),
        (pair.all_b, pair.all_a, "a", "b"),
    ):
        relation = _over_intervals(fine, coarse, side, other)
        relation = relation or _moving(fine, coarse, side, other)
        relation = relation or _running(fine, coarse, side, other)
        if relation is not None:
            return relation
    return None


def _is_every_step(numbers: Numbers) -> bool:
    return len(numbers.steps_N) > 1 and bool((np.diff(numbers.steps_N) == numbers.interval).all())


def _over_intervals(fine: Numbers, coarse: Numbers, side: str, other: str) -> Relation | None:
    """Means over the steps since the last number, as Hugging Face's Trainer logs them."""
    if coarse.interval <= fine.interval or not _is_every_step(fine):
        return None
    sums_N = np.concatenate([[0.0], np.cumsum(fine.values_N)])
    ends_N = np.searchsorted(fine.steps_N, coarse.steps_N, side="right")
    is_inside_N = (coarse.steps_N <= fine.steps_N[-1]) & (ends_N > 0)
    starts_N = np.concatenate([[0], ends_N[:-1]])
    starts_N = np.minimum(starts_N, ends_N)
    is_inside_N &= ends_N > starts_N
    is_inside_N[0] &= ends_N[0] > 1  # the first may be a single number
    if is_inside_N.sum() < FEWEST:
        return None
    ends_N, starts_N = ends_N[is_inside_N], starts_N[is_inside_N]
    means_N = (sums_N[ends_N] - sums_N[starts_N]) / (ends_N - starts_N)
    logged = coarse.at(np.flatnonzero(is_inside_N))
    if not _agree(means_N, logged, fine):
        return None
    text = (
        f"{side}'s is the mean of {other}'s over the {coarse.interval} steps up to each: {side} "
        "logs means, and no single steps"
    )
    return Relation("mean", text, float(coarse.interval), only_logged=True)


def _agree(
    means_N: NDArray[np.float64], logged: Numbers, fine: Numbers, slack: float = 1.0
) -> bool:
    width = float(np.max(fine.widths_N[np.isfinite(fine.values_N)], initial=0.0))
    with np.errstate(invalid="ignore"):
        gaps_N = np.abs(means_N - logged.values_N)
        return bool((gaps_N <= slack * (logged.widths_N + width)).all())


def _same_steps(fine: Numbers, smooth: Numbers) -> tuple[Numbers, Numbers] | None:
    """Both at their common steps; None unless these are all steps of either, evenly spaced."""
    pair = SeriesPair("", fine, smooth)
    if pair.steps < SMOOTHED or not _is_every_step(pair.a):
        return None
    if pair.steps < max(len(fine.steps_N), len(smooth.steps_N)) - 1 or not pair.is_judged_N.all():
        return None
    return pair.a, pair.b


def _moving(fine: Numbers, smooth: Numbers, side: str, other: str) -> Relation | None:
    """An exponential moving average, y = d y + (1 - d) x, whose decay d is measured.

    It begins with the first number, with 0, or is divided by 1 - d^t, as TensorBoard does it.
    """
    both = _same_steps(fine, smooth)
    if both is None:
        return None
    fitted = slice(None, FITTED)
    for start in ("first", "debiased", "zero"):
        decay = _decay(both[0].values_N[fitted], both[1].values_N[fitted], start)
        # a few numbers rule out almost all
        if all(_is_moving(both, decay, start, end) for end in (FITTED, None)):
            text = (
                f"{side}'s is {other}'s smoothed, a moving average with the factor "
                f"{number(decay)}: {side} logs averages, and no single steps"
            )
            return Relation("average", text, decay, only_logged=True)
    return None


def _is_moving(both: tuple[Numbers, Numbers], decay: float, start: str, end: int | None) -> bool:
    """Whether the smooth numbers up to `end` are moving averages of the others."""
    head = np.arange(len(both[0].values_N))[:end]
    averages_N = _averages(both[0].values_N[head], decay, start)
    return _agree(averages_N, both[1].at(head), both[0].at(head), SUMS)


def _decay(x_N: NDArray[np.float64], y_N: NDArray[np.float64], start: str) -> float:
    """The decay whose averages of x are nearest to y, by least squares."""
    from scipy.optimize import minimize_scalar

    def error(logit: float) -> float:
        gaps_N = _averages(x_N, _decay_of(logit), start) - y_N
        return float(gaps_N @ gaps_N)

    nearest = min(LOGITS, key=error)
    step = LOGITS[1] - LOGITS[0]
    best = minimize_scalar(
        error, bounds=(nearest - step, nearest + step), method="bounded", options={"xatol": 1e-10}
    )
    return _decay_of(float(best.x))


def _decay_of(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def _averages(x_N: NDArray[np.float64], decay: float, start: str) -> NDArray[np.float64]:
    from scipy.signal import lfilter

    if start == "first":
        from_first_N, _ = lfilter([1 - decay], [1, -decay], x_N, zi=[decay * x_N[0]])
        return np.asarray(from_first_N)
    averages_N: NDArray[np.float64] = np.asarray(lfilter([1 - decay], [1, -decay], x_N))
    if start == "debiased":
        averages_N /= 1 - decay ** np.arange(1, len(x_N) + 1)
    return averages_N


def _running(fine: Numbers, smooth: Numbers, side: str, other: str) -> Relation | None:
    """A mean over the last w numbers, or over all numbers so far."""
    both = _same_steps(fine, smooth)
    if both is None:
        return None
    x_N = both[0].values_N
    sums_N = np.concatenate([[0.0], np.cumsum(x_N)])
    count_N = np.arange(1, len(x_N) + 1)
    if _agree(sums_N[1:] / count_N, both[1], both[0]):
        text = (
            f"{side}'s is the mean of all of {other}'s so far: {side} logs averages, and no single "
            "steps"
        )
        return Relation("mean", text, None, only_logged=True)
    for window in range(2, min(WINDOWS, len(x_N) // 2) + 1):
        # a few numbers rule out almost all windows
        if not all(_is_running(both, sums_N, window, end) for end in (2 * window, len(x_N))):
            continue
        text = (
            f"{side}'s is the mean of {other}'s last {window} numbers: {side} logs averages, and "
            "no single steps"
        )
        return Relation("mean", text, float(window), only_logged=True)
    return None


def _is_running(
    both: tuple[Numbers, Numbers], sums_N: NDArray[np.float64], window: int, end: int
) -> bool:
    """Whether the smooth numbers from `window` to `end` are means over the last `window`."""
    tail = np.arange(window, end)
    means_N = (sums_N[tail + 1] - sums_N[tail + 1 - window]) / window
    return _agree(means_N, both[1].at(tail), both[0].at(tail))
