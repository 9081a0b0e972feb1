"""Distribution-free intervals: for a median, and for the ratio of two runs."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import median

__all__ = ["median_interval", "ratio_interval", "ratios", "three_digits"]


def median_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the ends of an interval that holds the true one with 95 % confidence or more.

    The ends are order statistics by the binomial distribution (Conover, Practical Nonparametric
    Statistics, 3rd ed., section 3.2). With n < 6 samples they are the least and the greatest, and
    the confidence, 1 - 2^(1-n), is below 95 %.
    """
    ordered = sorted(samples)
    n = len(samples)
    pascal = [1]
    for _ in range(n):
        pascal = [a + b for a, b in zip([0, *pascal], [*pascal, 0])]
    below = 0
    outside = pascal[0]
    while 2 * (outside + pascal[below + 1]) <= 0.05 * 2**n:
        below += 1
        outside += pascal[below]
    return median(ordered), ordered[below], ordered[n - 1 - below]


def ratios(samples: Sequence[float], over: Sequence[float]) -> list[float]:
    """Each sample over the other contender's sample of the same round."""
    return [a / b for a, b in zip(samples, over, strict=True)]


def ratio_interval(
    old: Sequence[float], new: Sequence[float], doubt: float
) -> tuple[float, float, float]:
    """The ratio new / old, and the ends of an interval that holds it with confidence 1 - `doubt`.

    The two runs' distributions are taken to differ by a factor. The ends are order statistics of
    all ratios by the distribution of the Mann-Whitney statistic (Hodges and Lehmann 1963; Conover,
    section 5.4); they are 0 and infinity where there are too few samples.
    """
    ordered = sorted(b / a for a in old for b in new)
    count_U = _counts(len(old), len(new))
    allowed = doubt / 2 * sum(count_U)
    below = 0
    outside = 0
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
    # the largest sample is one of the m, and then above all n; or it is one of the n
    first = (0,) * n + _counts(m - 1, n)
    second = _counts(m, n - 1) + (0,) * m
    return tuple(a + b for a, b in zip(first, second, strict=True))


def three_digits(value: float) -> str:
    """The value with three digits, or with all those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
