"""Are two samples of a metric the same but for less than a margin? Two one-sided Welch tests and a
bootstrap.

With d the difference of the means (of pairs: the mean difference), se its standard error and M the
margin:

- *equivalent*: d is shown to lie within -M and M. Both one-sided tests, of d <= -M and of d >= M,
  reject at level
  alpha (Schuirmann, 1987), which is to say that the 1 - 2 alpha Welch interval lies within the
  margins; and the bootstrap interval of that level does too.
- *different*: d is shown to lie beyond a margin. A one-sided test of d <= M or of d >= -M rejects
  at alpha / m, where m counts the metrics judged together (Bonferroni); and the bootstrap interval
  of that level lies beyond it too.
- *inconclusive*: neither is shown.

Each false verdict has at most probability alpha: *equivalent* where |d| is M or more, and
*different*, of any of the m metrics, where every |d| is M or less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Judgement", "Power", "judge", "overall"]

RESAMPLES = 10_000


@dataclass(frozen=True)
class Power:
    """What the sample could show, from its spread.

    `equivalent` is the probability of that verdict if nothing differs. `different` is the
    probability of that verdict if the true difference is twice the margin. `smallest` is the least
    true difference that is called different with the declared power. `margin` is the probability
    that an ordinary two-sided test at alpha sees a true difference of the margin.
    """

    equivalent: float
    different: float
    smallest: float
    margin: float


@dataclass(frozen=True)
class Judgement:
    """The verdict on one metric. `interval` and `bootstrap` are those of the level 1 - 2 alpha;
    `p_equivalent` is the larger p of the two tests within the margins, `p_different` the smaller of
    the two beyond them."""

    metric: str
    word: str
    means: tuple[float, float]
    deviations: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    bootstrap: tuple[float, float]
    p_equivalent: float
    p_different: float
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
        metric: its name.
        a_S, b_S: a value for each seed; for pairs, the same seeds in the same order.
        margin: M, above 0.
        alpha: the largest probability of each false verdict.
        power: for which the smallest difference is computed.
        together: m, how many metrics are judged together.
        paired: judge the differences of pairs.
    """
    both = (np.asarray(a_S, np.float64), np.asarray(b_S, np.float64))
    means, deviations = (
        tuple(float(f(x)) for x in both) for f in (np.mean, lambda x: np.std(x, ddof=1))
    )
    shared: dict[str, Any] = {
        "metric": metric,
        "means": means,
        "deviations": deviations,
        "margin": margin,
        "paired": paired,
    }
    if not all(np.isfinite(x).all() for x in both):
        nothing = (-np.inf, np.inf)
        return Judgement(
            **shared,
            word="inconclusive",
            difference=means[1] - means[0],
            interval=nothing,
            bootstrap=nothing,
            p_equivalent=1.0,
            p_different=1.0,
            power=Power(0.0, 0.0, np.inf, 0.0),
        )
    samples = [both[1] - both[0]] if paired else [both[1], -both[0]]
    d = float(sum(x.mean() for x in samples))
    error, freedom = _standard_error(samples)
    low, high = _tail(d + margin, error, freedom), _tail(margin - d, error, freedom)
    p_equivalent, p_different = max(low, high), min(1 - low, 1 - high)
    draws = _bootstrap(samples)
    narrow = _quantiles(draws, alpha)
    wide = _quantiles(draws, alpha / together)
    word = "inconclusive"
    if p_equivalent < alpha and -margin < narrow[0] and narrow[1] < margin:
        word = "equivalent"
    elif p_different < alpha / together and (wide[0] > margin or wide[1] < -margin):
        word = "different"
    half = float(stats.t.isf(alpha, freedom)) * error
    return Judgement(
        **shared,
        word=word,
        difference=d,
        interval=(d - half, d + half),
        bootstrap=narrow,
        p_equivalent=p_equivalent,
        p_different=p_different,
        power=_power(margin, error, freedom, alpha, alpha / together, power),
    )


def overall(judgements: Sequence[Judgement]) -> str:
    """*different* if any metric is, *equivalent* if all are, else *inconclusive*."""
    words = {judgement.word for judgement in judgements}
    if "different" in words:
        return "different"
    return "equivalent" if words == {"equivalent"} else "inconclusive"


def _standard_error(samples: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The standard error of the sum of the means, and its degrees of freedom (Welch and
    Satterthwaite)."""
    parts = [(float(x.var(ddof=1)) / len(x), len(x) - 1) for x in samples]
    square = sum(v for v, _ in parts)
    if square == 0:
        return 0.0, float(sum(n for _, n in parts))
    return square**0.5, square**2 / sum(v**2 / n for v, n in parts)


def _tail(excess: float, error: float, freedom: float) -> float:
    """p of the one-sided test that the true excess is not above 0."""
    if error == 0:
        return 0.0 if excess > 0 else 1.0
    return float(stats.t.sf(excess / error, freedom))


def _bootstrap(samples: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum of the means of samples drawn again with replacement, many times; always the same
    draws.
    """
    generator = np.random.default_rng(0)
    found = np.zeros(RESAMPLES)
    for x in samples:
        found += x[generator.integers(len(x), size=(RESAMPLES, len(x)))].mean(axis=1)
    return found


def _quantiles(draws: NDArray[np.float64], tail: float) -> tuple[float, float]:
    low, high = np.quantile(draws, (tail, 1 - tail))
    return float(low), float(high)


def _power(
    margin: float, error: float, freedom: float, alpha: float, each: float, power: float
) -> Power:
    if error == 0:
        return Power(1.0, 1.0, margin, 1.0)
    t, t_each, t_two = (float(stats.t.isf(tail, freedom)) for tail in (alpha, each, alpha / 2))
    reach = margin / error
    return Power(
        equivalent=max(0.0, 2 * float(stats.t.cdf(reach - t, freedom)) - 1),
        different=float(stats.t.sf(t_each - reach, freedom)),
        smallest=margin + (t_each + float(stats.t.ppf(power, freedom))) * error,
        margin=float(stats.t.sf(t_two - reach, freedom) + stats.t.cdf(-t_two - reach, freedom)),
    )
