"""Numbers and names as text: short, of a bounded width, and safe for anything that a CSV may hold."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lockstep.printable import printable

__all__ = ["difference", "json_number", "name", "number", "percent", "ratio", "several", "short"]

ELLIPSIS = "..."


def number(value: float, digits: int = 4) -> str:
    """`digits` significant digits: 0.01235, 2.5e+10, nan."""
    return f"{float(value):.{digits}g}"


def short(value: float, width: int = 6) -> str:
    """A number in at most `width` (>= 5) characters: 0.3012, 12.346, 1e+05."""
    value = float(value)
    if not math.isfinite(value):
        return f"{value:g}"
    if value == 0:
        return "0"
    for digits in range(width - 2, -1, -1):
        if len(text := f"{value:.{digits}f}") <= width and float(text) != 0:
            return text
    return f"{value:.0e}"


def percent(share: float) -> str:
    """A share as a percentage without its sign: 88.1, 100."""
    value = 100 * float(share)
    return "100" if value == 100 else f"{min(value, 99.9) if value < 100 else value:.1f}"


def ratio(of: float, to: float) -> str:
    """How many times larger: "5.0 times", or "" where that has no meaning."""
    if not (math.isfinite(of) and math.isfinite(to)) or to == 0:
        return ""
    return f"{of / to:.{1 if of / to < 100 else 0}f} times"


def difference(first: Any, second: Any) -> float:
    """Largest |first - second|; two NaNs, or two equal infinities, do not differ, a NaN against a number is NaN."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size == 0:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(apart.max())


def several(values: Sequence[float] | Any, limit: int = 4, digits: int = 4) -> str:
    """The first few of a sequence: 0.1, -2.3, 4, 1.2, ..."""
    shown = [number(value, digits) for value in values[:limit]]
    return ", ".join(shown + [ELLIPSIS] * (len(values) > limit))


def name(text: str, limit: int = 40) -> str:
    """A column or class name, what does not print escaped, cut to `limit`."""
    clean = printable(text)
    return clean if len(clean) <= limit else clean[: limit - len(ELLIPSIS)] + ELLIPSIS


def json_number(value: Any) -> float | None:
    """A float for strict JSON: None in place of NaN and the infinities."""
    value = float(value)
    return value if math.isfinite(value) else None
