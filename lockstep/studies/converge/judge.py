"""Whether two samples of a metric differ by less than a margin: two one-sided Welch tests and a
bootstrap.

Let d be the difference of the means (of pairs: the mean difference), and M the margin.

- *equivalent*: d is shown to lie within -M and M. Both one-sided tests, of d <= -M and of d >= M,
  reject at level alpha (Schuirmann, 1987), which means that the 1 - 2 alpha Welch interval lies
  within the margins. The bootstrap interval of that level lies within them too.
- *different*: d is shown to lie beyond a margin. A one-sided test of d <= M or of d >= -M rejects
  at alpha / m, where m counts the metrics judged together (Bonferroni). The bootstrap interval of
  that level lies beyond the margin too.
- *inconclusive*: neither is shown.

Each false verdict has at most probability alpha: *equivalent* where |d| is M or more, and
*different*, of any of the m metrics, where every |d| is M or less.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Judgement", "Power", "judge", "overall"]

RESAMPLES = 10_000
"""How many samples the bootstrap draws."""


@dataclass(frozen=True)
class Power:
    """What a sample of this spread can show."""

    equivalent: float
    """The probability of that verdict if nothing differs."""
    different: float
    """The probability of that verdict if the true difference is twice the margin."""
    smallest: float
    """The least true difference that is called different with the declared power."""
    margin: float
    """The probability that an ordinary two-sided test at alpha sees a true difference of the
    margin."""


@dataclass(frozen=True)
class Judgement:
    """The verdict on one metric."""

    metric: str
    word: str
    means: tuple[float, float]
    deviations: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    """Welch's interval of the level 1 - 2 alpha."""
    bootstrap: tuple[float, float]
    """The bootstrap interval of that level."""
    p_equivalent: float
    """The larger p of the two tests within the margins."""
    p_different: float
    """The smaller p of the two tests beyond the margins."""
    margin: float
    power: Power
    paired: bool


def judge(
    metric: str,
    a_S: NDArray[np.float64],
    b_S: NDArray[np.float64],
    margin: float,
    *,
    alpha: float,
    power: float,
    together: int = 1,
    paired: bool = False,
) -> Judgement:
    """Judge b - a.

    Args:
        metric: the name of the metric.
        a_S, b_S: a value for each seed; for pairs, the same seeds in the same order.
        margin: M, above 0.
        alpha: the largest probability of each false verdict.
        power: the power for which the smallest difference is computed.
        together: m, how many metrics are judged together.
        paired: whether the differences of pairs are judged.
    """
    a_S = np.asarray(a_S, np.float64)
    b_S = np.asarray(b_S, np.float64)
    unjudged = _unjudged(metric, a_S, b_S, margin, paired)
    if not (np.isfinite(a_S).all() and np.isfinite(b_S).all()):
        return unjudged
    samples = [b_S - a_S] if paired else [b_S, -a_S]
    d = float(sum(sample_S.mean() for sample_S in samples))
    error, freedom = _standard_error(samples)
    p_low = _tail(d + margin, error, freedom)
    p_high = _tail(margin - d, error, freedom)
    p_equivalent = max(p_low, p_high)
    p_different = min(1 - p_low, 1 - p_high)
    draws = _bootstrap(samples)
    narrow = _quantiles(draws, alpha)
    wide = _quantiles(draws, alpha / together)
    word = "inconclusive"
    if p_equivalent < alpha and -margin < narrow[0] and narrow[1] < margin:
        word = "equivalent"
    elif p_different < alpha / together and (wide[0] > margin or wide[1] < -margin):
        word = "different"
    half = float(stats.t.isf(alpha, freedom)) * error
    return replace(
        unjudged,
        word=word,
        difference=d,
        interval=(d - half, d + half),
        bootstrap=narrow,
        p_equivalent=p_equivalent,
        p_different=p_different,
        power=_power(margin, error, freedom, alpha, alpha / together, power),
    )


def _unjudged(
    metric: str,
    a_S: NDArray[np.float64],
    b_S: NDArray[np.float64],
    margin: float,
    paired: bool,
) -> Judgement:
    """The judgement of samples of which nothing can be shown."""
    means = (float(a_S.mean()), float(b_S.mean()))
    unbounded = (-np.inf, np.inf)
    return Judgement(
        metric=metric,
        word="inconclusive",
        means=means,
        deviations=(float(a_S.std(ddof=1)), float(b_S.std(ddof=1))),
        difference=means[1] - means[0],
        interval=unbounded,
        bootstrap=unbounded,
        p_equivalent=1.0,
        p_different=1.0,
        margin=margin,
        power=Power(0.0, 0.0, np.inf, 0.0),
        paired=paired,
    )


def overall(judgements: Sequence[Judgement]) -> str:
    """*different* if any metric is, *equivalent* if all are, else *inconclusive*."""
    words = {judgement.word for judgement in judgements}
    if "different" in words:
        return "different"
    return "equivalent" if words == {"equivalent"} else "inconclusive"


def _standard_error(samples: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The standard error of the sum of the means, and its degrees of freedom.

    Both are Welch's; the degrees of freedom are by Satterthwaite's formula.
    """
    squares = [float(sample_S.var(ddof=1)) / len(sample_S) for sample_S in samples]
    freedoms = [len(sample_S) - 1 for sample_S in samples]
    square = sum(squares)
    if square == 0:
        return 0.0, float(sum(freedoms))
    return square**0.5, square**2 / sum(
        part**2 / freedom for part, freedom in zip(squares, freedoms)
    )


def _tail(excess: float, error: float, freedom: float) -> float:
    """The p of the one-sided test that the true excess is not above 0."""
    if error == 0:
        return 0.0 if excess > 0 else 1.0
    return float(stats.t.sf(excess / error, freedom))


def _bootstrap(samples: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum of the means of samples drawn again with replacement, `RESAMPLES` times.

    The draws are always the same.
    """
    generator = np.random.default_rng(0)
    sums = np.zeros(RESAMPLES)
    for sample_S in samples:
        drawn = generator.integers(len(sample_S), size=(RESAMPLES, len(sample_S)))
        sums += sample_S[drawn].mean(axis=1)
    return sums


def _quantiles(draws: NDArray[np.float64], tail: float) -> tuple[float, float]:
    low, high = np.quantile(draws, (tail, 1 - tail))
    return float(low), float(high)


def _power(
    margin: float, error: float, freedom: float, alpha: float, each: float, power: float
) -> Power:
    if error == 0:
        return Power(1.0, 1.0, margin, 1.0)
    t = float(stats.t.isf(alpha, freedom))
    t_each = float(stats.t.isf(each, freedom))
    t_two = float(stats.t.isf(alpha / 2, freedom))
    reach = margin / error
    return Power(
        equivalent=max(0.0, 2 * float(stats.t.cdf(reach - t, freedom)) - 1),
        different=float(stats.t.sf(t_each - reach, freedom)),
        smallest=margin + (t_each + float(stats.t.ppf(power, freedom))) * error,
        margin=float(stats.t.sf(t_two - reach, freedom) + stats.t.cdf(-t_two - reach, freedom)),
    )
