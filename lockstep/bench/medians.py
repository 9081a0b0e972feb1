"""Intervals without a distribution: of a median, and of the ratio of two runs."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import median

__all__ = ["median_interval", "ratio_interval", "ratios", "three_digits"]


def median_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """The median, and an interval that holds the true one with at least 95 % confidence: order
    statistics by the binomial distribution (Conover, Practical Nonparametric Statistics, 3rd ed.,
    section 3.2). With fewer than 6
    samples the interval is from the least to the greatest, and its confidence 1 - 2^(1-n) is below
    that."""
    ordered, n = sorted(samples), len(samples)
    pascal = [1]
    for _ in range(n):
        pascal = [a + b for a, b in zip([0, *pascal], [*pascal, 0])]
    below, outside = 0, pascal[0]
    while 2 * (outside + pascal[below + 1]) <= 0.05 * 2**n:
        below += 1
        outside += pascal[below]
    return median(ordered), ordered[below], ordered[n - 1 - below]


def ratios(samples: Sequence[float], over: Sequence[float]) -> list[float]:
    """Each sample over that of the same round."""
    return [a / b for a, b in zip(samples, over, strict=True)]


def ratio_interval(
    old: Sequence[float], new: Sequence[float], doubt: float
) -> tuple[float, float, float]:
    """By how much new is old, and an interval that holds it with a confidence of at least 1 -
    `doubt`, for samples of two runs whose distributions differ by a factor: order statistics of all
    ratios by the distribution of the Mann-Whitney statistic (Hodges and Lehmann 1963; Conover,
    section 5.4). Without limits where there are too few samples to say."""
    ordered = sorted(b / a for a in old for b in new)
    count_U = _counts(len(old), len(new))
    allowed, below, outside = doubt / 2 * sum(count_U), 0, 0
    while outside + count_U[below] <= allowed:
        outside += count_U[below]
        below += 1
    middle = median(ordered)
    if not below:
        return middle, 0.0, math.inf
    return middle, ordered[below - 1], ordered[len(ordered) - below]


@cache
def _counts(m: int, n: int) -> tuple[int, ...]:
    """How many orders of m and n samples have each value 0..mn of the Mann-Whitney statistic."""
    if not (m and n):
        return (1,)
    # the largest is one of the m, and then above all of the n; or one of the n
    first, second = _counts(m - 1, n), _counts(m, n - 1)
    return tuple(
        (first[u - n] if 0 <= u - n < len(first) else 0) + (second[u] if u < len(second) else 0)
        for u in range(m * n + 1)
    )


def three_digits(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
