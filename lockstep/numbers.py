"""Numbers and names as text: short, of a bounded width, and safe whatever a CSV holds."""

import math
from collections.abc import Sequence
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lockstep.printable import printable

__all__ = [
    "difference",
    "factor",
    "json_number",
    "name",
    "number",
    "number_beside",
    "percent",
    "ratio",
    "several",
    "short",
    "written",
]

ELLIPSIS = "..."
NEAR = 1e-3
"""Distance from 1 below which a factor is written as 1 and that distance."""
LEFT_OUT = 0.05
"""Share of a difference between two values that their digits may leave out."""


def number(value: float, digits: int = 4) -> str:
    """`digits` significant digits: 0.01235, 2.5e+10, nan."""
    return f"{float(value):.{digits}g}"


def factor(value: float, digits: int = 4) -> str:
    """A factor or a ratio that can be told from 1: 2.5, 1.004, "1 + 1.0e-6"; "1" is 1."""
    value = float(value)
    apart = value - 1
    if value == 1 or not abs(apart) < NEAR:
        return number_beside(value, 1.0, digits)
    mantissa, _, power = f"{abs(apart):.1e}".partition("e")
    return f"1 {'+' if apart > 0 else '-'} {mantissa}e{int(power)}"


def number_beside(value: float, other: float, digits: int = 4) -> str:
    """At least `digits` digits, and enough to tell the value from another: 0.9000001 from 0.9."""
    value = float(value)
    apart = abs(value - float(other))
    if not 0 < apart < math.inf:  # equal, or no numbers: there is nothing to tell apart
        return number(value, digits)
    for more in range(digits, 17):
        text = number(value, more)
        if not abs(float(text) - value) > LEFT_OUT * apart:
            return text
    return repr(value)


def written(value: float) -> str:
    """A number as in a recipe, with as many digits as it has: 0.01, 1e-08, 0.123456."""
    text = f"{float(value):.4g}"
    return text if float(text) == value else repr(float(value))


def short(value: float, width: int = 6) -> str:
    """A number in at most `width` (>= 5) characters: 0.3012, 12.346, 1e+05."""
    value = float(value)
    if not math.isfinite(value):
        return f"{value:g}"
    if value == 0:
        return "0"
    for digits in range(width - 2, -1, -1):
        text = f"{value:.{digits}f}"
        if len(text) <= width and float(text) != 0:
            return text
    return f"{value:.0e}"


def percent(share: float) -> str:
    """A share as a percentage without its sign: 88.1, 100."""
    value = 100 * float(share)
    if value == 100:
        return "100"
    if value < 100:
        value = min(value, 99.9)  # nothing below 100 is shown as 100.0
    return f"{value:.1f}"


def ratio(of: float, to: float) -> str:
    """How many times larger: "5.0 times", "1.02 times"; or "" where that has no meaning."""
    if not (math.isfinite(of) and math.isfinite(to)) or to == 0:
        return ""
    times = of / to
    if 0 < abs(times - 1) < 0.05:
        return f"{factor(times, 2)} times"
    digits = 1 if times < 100 else 0
    return f"{times:.{digits}f} times"


def difference(first: ArrayLike, second: ArrayLike) -> float:
    """The largest |first - second|; 0 where there are no elements.

    Two NaNs, or two equal infinities, do not differ. A NaN and a number differ by NaN.
    """
    a = np.asarray(first, dtype=np.float64)
    b = np.asarray(second, dtype=np.float64)
    if a.size == 0:
        return 0.0
    is_same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(is_same, 0.0, np.abs(a - b))
    return float(apart.max())


def several(values: Sequence[float] | NDArray[Any], limit: int = 4, digits: int = 4) -> str:
    """The first few numbers of a sequence: 0.1, -2.3, 4, 1.2, ..."""
    texts = [number(value, digits) for value in values[:limit]]
    if len(values) > limit:
        texts.append(ELLIPSIS)
    return ", ".join(texts)


def name(text: str, limit: int = 40) -> str:
    """A column's or a class's name, cut to `limit`; characters that do not print are escaped."""
    clean = printable(text)
    return clean if len(clean) <= limit else clean[: limit - len(ELLIPSIS)] + ELLIPSIS


def json_number(value: SupportsFloat) -> float | None:
    """A float for strict JSON: None in place of NaN and the infinities."""
    plain = float(value)
    return plain if math.isfinite(plain) else None
