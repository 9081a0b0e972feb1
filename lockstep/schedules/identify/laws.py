"""The laws that a learning rate follows for a while, and the fit of each to a stretch of a series.

Each fit takes the updates of a stretch `t` (n,), their rates `y` (n,) and a tolerance, and returns
the law that comes within the tolerance at every update, or None.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST", "FITS", "FREE", "SHAPES", "SURE", "Law", "fit", "refit"]

Array = NDArray[np.float64]

FEWEST = {"constant": 2, "line": 3, "exponential": 5, "cosine": 6, "power": 6}
"""Kind of a law -> the updates that show it: one more than it has numbers, at least."""
POWERS = (2.0, 0.5, 3.0, 1.5, 4.0, 0.9, 0.8, 0.75, 1.2, 2.5)
"""Exponents of the time left (or done) that are tried before any other."""
ROUNDS = 12
"""Steps of Gauss and Newton. Those from a start within a few per cent need five."""
PATIENCE = 2
"""Steps that may bring nothing before a start is given up."""
FREE = {"exponential": (0, 1, 2), "cosine": (0, 1, 2, 3), "power": (0, 1, 2, 3)}
"""Kind of a law -> the places of its numbers that are fitted."""
MOST = 64
"""Updates, spread evenly, that a law is looked for in; it is then tried at all."""
MOST_STARTS = 6
FARTHEST = 1e3
"""Times the largest rate, at most, that a cosine swings: a parabola is the bottom of a cosine
without bounds.
"""
SURE = 0.2
"""Updates within which an update that is read off a law is known."""
NO_LINE = 1e-3
"""Distance from 1 above which an exponent makes a curve."""


@dataclass(frozen=True)
class Law:
    """A formula of the time t.

    By `kind` the numbers are:

    - constant: c
    - line: the rate at 0, the slope
    - exponential: f, c, g, t0 of f + c g^(t - t0)
    - cosine: the middle m, the amplitude A > 0, the top s, the half period L of
      m + A cos(pi (t - s) / L)
    - power: f, c, z, p of f + c |t - z|^p

    `spread` has the amount by which each number may be off within the tolerance.
    """

    kind: str
    numbers: tuple[float, ...]
    spread: tuple[float, ...] = ()

    def at(self, t: Array) -> Array:
        """The rates at the times t."""
        return SHAPES[self.kind](t, *self.numbers)


def _cosine(t: Array, middle: float, amplitude: float, top: float, length: float) -> Array:
    return middle + amplitude * np.cos(np.pi * (t - top) / length)


def _power(t: Array, f: float, c: float, z: float, p: float) -> Array:
    with np.errstate(all="ignore"):
        return f + c * np.abs(t - z) ** p


SHAPES: dict[str, Callable[..., Array]] = {
    "constant": lambda t, c: np.full(t.shape, c),
    "line": lambda t, at_0, slope: at_0 + slope * t,
    "exponential": lambda t, f, c, g, t0: f + c * g ** (t - t0),
    "cosine": _cosine,
    "power": _power,
}
"""Kind of a law -> its formula, of t and its numbers."""


def fit_constant(t: Array, y: Array, tolerance: float) -> Law | None:
    """A rate that stays."""
    middle = float(y[0]) if np.ptp(y) == 0 else float((y.min() + y.max()) / 2)
    return Law("constant", (middle,), (tolerance,)) if np.ptp(y) <= 2 * tolerance else None


def fit_line(t: Array, y: Array, tolerance: float) -> Law | None:
    """A rate that rises or falls by the same amount at every update."""
    columns = np.stack([np.ones_like(t), t - t[0]], axis=1)
    numbers, *_ = np.linalg.lstsq(columns, y, rcond=None)
    if np.abs(columns @ numbers - y).max() > tolerance:
        return None
    at_0 = float(numbers[0] - numbers[1] * t[0])
    return Law("line", (at_0, float(numbers[1])), _spread(columns, tolerance))


def fit_exponential(t: Array, y: Array, tolerance: float) -> Law | None:
    """A rate of which the same share is left after every update, down to 0 or to a floor."""
    step = (len(y) - 1) // 2
    first, second = y[step] - y[0], y[2 * step] - y[step]
    if not first or not second / first > 0:
        return None
    begin = float(t[0])
    if y[0] and y[-1] / y[0] > 0:
        ratio = float((y[-1] / y[0]) ** (1 / (t[-1] - t[0])))
        law = _refined("exponential", t, y, (0.0, float(y[0]), ratio, begin), (1, 2), tolerance)
        if law is not None:
            return law
    ratio = float((second / first) ** (1 / (t[step] - begin)))
    if ratio == 1:
        return None
    scale = first / (ratio ** (t[step] - begin) - 1)
    start = (float(y[0] - scale), float(scale), ratio, begin)
    return _refined("exponential", t, y, start, (0, 1, 2), tolerance)


def fit_cosine(t: Array, y: Array, tolerance: float) -> Law | None:
    """A rate that swings about a middle."""
    for parts in (3, 6, 12, len(y)):
        lag = max(len(y) // parts, 1)
        between = y[lag : len(y) - lag]
        if len(between) < 2 or np.ptp(between) == 0:
            continue
        columns = np.stack([between, np.ones_like(between)], axis=1)
        sums = y[: len(y) - 2 * lag] + y[2 * lag :]
        (twice, _), *_ = np.linalg.lstsq(columns, sums, rcond=None)
        if not -2 < twice < 2:
            continue
        turn = float(np.arccos(twice / 2) / (t[lag] - t[0]))
        law = _swing(t, y, turn, tolerance)
        if law is not None:
            return law
    return None


def _swing(t: Array, y: Array, turn: float, tolerance: float) -> Law | None:
    """The cosine from a first guess of its angle an update."""
    middle_t = float(t[0])
    numbers = np.zeros(3)
    for _ in range(ROUNDS):
        angle = turn * (t - middle_t)
        cos, sin = np.cos(angle), np.sin(angle)
        columns = np.stack([np.ones_like(t), cos, sin], axis=1)
        numbers, *_ = np.linalg.lstsq(columns, y, rcond=None)
        slope = (t - middle_t) * (numbers[2] * cos - numbers[1] * sin)
        rest = y - columns @ numbers
        step, *_ = np.linalg.lstsq(np.column_stack([columns, slope]), rest, rcond=None)
        if not np.isfinite(step).all() or not 0 < turn + step[3] < np.pi + 1e-6:
            return None
        turn += float(step[3])
        if abs(step[3]) < 1e-15:
            break
    amplitude = float(np.hypot(numbers[1], numbers[2]))
    if amplitude > FARTHEST * np.abs(y).max():
        return None
    length = np.pi / turn
    top = middle_t + float(np.arctan2(numbers[2], numbers[1])) / turn
    start = (float(numbers[0]), amplitude, top, length)
    return _refined("cosine", t, y, start, (0, 1, 2, 3), tolerance)


def fit_power(t: Array, y: Array, tolerance: float) -> Law | None:
    """A rate that is a power of the time since some update, or until one."""
    if np.ptp(y) <= tolerance:
        return None
    for power in (-0.5, -1.0):
        law = _without_floor(t, y, power, tolerance)
        if law is not None:
            return law
    starts = []
    for power in POWERS:
        for place in _places(t, y, power):
            start = _start(t, y, place, power)
            law = _refined("power", t, y, start, (0, 1, 2), tolerance)
            if law is not None:
                return law
            starts.append((float(np.abs(_power(t, *start) - y).max()), start))
    starts = [entry for entry in starts if np.isfinite(entry[0])]
    for _, start in sorted(starts)[:MOST_STARTS]:
        law = _refined("power", t, y, start, (0, 1, 2, 3), tolerance)
        if law is not None:
            return law
    return None


def _without_floor(t: Array, y: Array, power: float, tolerance: float) -> Law | None:
    """c (t - z)^p, of which the p-th root is a line."""
    if not (y > 0).all():
        return None
    slope, at_0 = np.polyfit(t - t[0], y ** (1 / power), 1)
    if not slope > 0:
        return None
    start = (0.0, float(slope**power), float(t[0] - at_0 / slope), power)
    return _refined("power", t, y, start, (1, 2), tolerance)


def _places(t: Array, y: Array, power: float) -> list[float]:
    """The times z for which three updates far apart lie on f + c |t - z|^p."""
    step = (len(y) - 1) // 2
    first, second = y[step] - y[0], y[2 * step] - y[step]
    if not first or not second / first > 0:
        return []
    wanted = np.log(second / first)
    low, middle, high = t[0], t[step], t[2 * step]
    reach = (high - low) * np.logspace(-6, 4, 400)
    places = []
    for grid in (high + reach, low - reach):
        early = np.abs(middle - grid) ** power - np.abs(low - grid) ** power
        late = np.abs(high - grid) ** power - np.abs(middle - grid) ** power
        with np.errstate(all="ignore"):
            gap = np.log(late / early) - wanted
        crossing = np.flatnonzero(np.sign(gap[1:]) * np.sign(gap[:-1]) <= 0)
        places += [float((grid[i] + grid[i + 1]) / 2) for i in crossing[:2]]
    ends = [float(high + 1), float(high), float(low), float(low - 1)]
    return places + (ends if not places else [])


def _start(t: Array, y: Array, place: float, power: float) -> tuple[float, float, float, float]:
    columns = np.stack([np.ones_like(t), np.abs(t - place) ** power], axis=1)
    numbers, *_ = np.linalg.lstsq(columns, y, rcond=None)
    return float(numbers[0]), float(numbers[1]), place, power


def _refined(
    kind: str,
    t: Array,
    y: Array,
    start: tuple[float, ...],
    free: tuple[int, ...],
    tolerance: float,
) -> Law | None:
    """The law nearest to the rates by least squares in its free numbers; None where that is not
    within the tolerance.
    """
    numbers = np.array(start, dtype=np.float64)
    best = numbers.copy()
    least = np.inf
    failures = 0
    with np.errstate(all="ignore"):
        for _ in range(ROUNDS):
            rest = y - SHAPES[kind](t, *numbers)
            error = float(np.abs(rest).max())
            if not np.isfinite(error):
                break
            is_stuck = error > least / 2 and least > tolerance
            if error < least:
                best, least = numbers.copy(), error
            failures += is_stuck
            if failures > PATIENCE:
                break
            columns = _slopes(kind, t, numbers, free)
            if not np.isfinite(columns).all():
                break
            sizes = np.linalg.norm(columns, axis=0)
            sizes[sizes == 0] = 1
            step, *_ = np.linalg.lstsq(columns / sizes, rest, rcond=None)
            numbers[list(free)] += step / sizes
    if least > tolerance or (kind == "power" and not _is_power(t, best)):
        return None
    columns = _slopes(kind, t, best, free)
    spread = np.zeros(len(best))
    spread[list(free)] = _spread(columns, tolerance)
    return Law(kind, tuple(map(float, best)), tuple(map(float, spread)))


def _is_power(t: Array, numbers: Array) -> bool:
    """Whether a power's time counts from or to an update outside of the stretch, and it is no line.

    Of a time within it the two branches would be a line and its reflection.
    """
    _, _, place, power = numbers
    return bool((place < t[0] + SURE or place > t[-1] - SURE) and abs(power - 1) > NO_LINE)


def _slopes(kind: str, t: Array, numbers: Array, free: tuple[int, ...]) -> Array:
    """The derivatives of a law by its free numbers, (n, free)."""
    return np.stack([DERIVATIVES[kind][i](t, *numbers) for i in free], axis=1)


def _of_place(t: Array, f: float, c: float, z: float, p: float) -> Array:
    apart = t - z
    slope = -c * p * np.sign(apart) * np.abs(apart) ** (p - 1)
    return np.where(np.isfinite(slope), slope, 0.0)


def _of_power(t: Array, f: float, c: float, z: float, p: float) -> Array:
    apart = np.abs(t - z)
    return np.where(apart > 0, c * apart**p * np.log(np.where(apart > 0, apart, 1)), 0.0)


def _angle(t: Array, top: float, length: float) -> Array:
    return np.pi * (t - top) / length


DERIVATIVES: dict[str, dict[int, Callable[..., Array]]] = {
    "exponential": {
        0: lambda t, f, c, g, t0: np.ones_like(t),
        1: lambda t, f, c, g, t0: g ** (t - t0),
        2: lambda t, f, c, g, t0: c * (t - t0) * g ** (t - t0 - 1),
    },
    "cosine": {
        0: lambda t, m, a, s, n: np.ones_like(t),
        1: lambda t, m, a, s, n: np.cos(_angle(t, s, n)),
        2: lambda t, m, a, s, n: a * np.sin(_angle(t, s, n)) * np.pi / n,
        3: lambda t, m, a, s, n: a * np.sin(_angle(t, s, n)) * _angle(t, s, n) / n,
    },
    "power": {
        0: lambda t, f, c, z, p: np.ones_like(t),
        1: lambda t, f, c, z, p: np.abs(t - z) ** p,
        2: _of_place,
        3: _of_power,
    },
}
"""Kind of a law -> its derivatives by its numbers, by their places."""


def _spread(columns: Array, tolerance: float) -> tuple[float, ...]:
    """How far each number may be off where every rate is off by the tolerance."""
    sizes = np.linalg.norm(columns, axis=0)
    sizes[sizes == 0] = 1
    with np.errstate(all="ignore"):
        inverse = np.linalg.pinv(columns / sizes, rcond=0)
        spread = np.linalg.norm(inverse, axis=1) * tolerance / sizes
    return tuple(float(value) if np.isfinite(value) else np.inf for value in spread)


def refit(law: Law, t: Array, y: Array, tolerance: float) -> Law | None:
    """The law of the same kind for other updates, from a law for some of them."""
    if law.kind not in FREE:
        return FITS[law.kind](t, y, tolerance)
    free = FREE[law.kind]
    if law.kind == "exponential" and not law.numbers[0]:
        free = free[1:]
    if law.kind == "power":
        free = free[1:] if law.numbers[3] < 0 else free
        free = free[:-1] if law.numbers[3] in POWERS or law.numbers[3] < 0 else free
    return _refined(law.kind, t, y, law.numbers, free, tolerance)


def fit(kind: str, t: Array, y: Array, tolerance: float) -> Law | None:
    """The law of a kind for a stretch, which is looked for at some of its updates where these are
    many.
    """
    if len(t) <= MOST or kind not in FREE:
        return FITS[kind](t, y, tolerance)
    # evenly, as the first guesses need it
    step = (len(t) - 1) // (MOST - 1)
    law = FITS[kind](t[::step], y[::step], tolerance)
    return None if law is None else refit(law, t, y, tolerance)


FITS: dict[str, Callable[[Array, Array, float], Law | None]] = {
    "constant": fit_constant,
    "line": fit_line,
    "exponential": fit_exponential,
    "cosine": fit_cosine,
    "power": fit_power,
}
"""Kind of a law -> its fit, the simplest first."""
