"""The digits that a log keeps, told from its numbers, and how far equal numbers may be apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.logs.column_names import RATE
from lockstep.logs.log import Series

__all__ = ["ARITHMETIC", "Digits", "digits_of", "tolerance"]

ARITHMETIC = 2.0**-19
"""Relative difference that two right float32 computations of one number may have.

It is 32 units of the last place: sums over rows and layers are added in different orders. A log
does not say in which dtype its numbers were computed.
"""
FULL = 15
"""Significant digits from which on a number was not cut: float64 has 15 to 17 of them."""
SINGLE = 8
"""Significant digits of a number that was float32 and is written in full; it has 6 to 9."""
MOST_DECIMALS = 22
"""10**22 is the last power of ten that a float64 holds exactly."""
SAMPLE = 20_000
"""Numbers, evenly spread, that the digits are told from."""
DISTINCT = 8
"""Different numbers that a rate must have before few digits count as cut: a rate of 0.001 is
usually exactly that, and a loss of 0.693 is not."""


@dataclass(frozen=True)
class Digits:
    """How the numbers of a series were cut."""

    kind: str
    """"decimals", "significant" or "full"."""
    count: int = 0

    def half_units(self, values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half a unit of the last digit of each number: what cutting may have changed."""
        if self.kind == "decimals":
            return np.full(len(values_N), 0.5 * 10.0**-self.count)
        if self.kind == "full":
            return np.zeros(len(values_N))
        with np.errstate(divide="ignore", invalid="ignore"):
            power_N = np.floor(np.log10(np.abs(values_N)))
        halves_N = 0.5 * 10.0 ** (power_N - self.count + 1)
        return np.where(np.isfinite(halves_N), halves_N, 0.0)

    @property
    def text(self) -> str:
        """The digits in words: "4 decimals"."""
        if self.kind == "full":
            return "all digits"
        word = "decimal" if self.kind == "decimals" else "significant digit"
        return f"{self.count} {word}{'s' if self.count != 1 else ''}"


def digits_of(name: str, series: Series) -> Digits:
    """How the numbers of a series were cut.

    Numbers that were cut to decimals all have that many, or fewer where the last are zeros; numbers
    that were cut to significant digits likewise. What fits more of the numbers counts.
    """
    if series.decimals is not None:
        return Digits("decimals", series.decimals)
    values_N = series.values_N[np.isfinite(series.values_N) & (series.values_N != 0)]
    values_N = values_N[:: max(1, len(values_N) // SAMPLE)]
    if not len(values_N):
        return Digits("full")
    decimals_N = _decimals(values_N)
    significant_N = decimals_N + np.floor(np.log10(np.abs(values_N))).astype(np.int64) + 1
    if significant_N.max() >= FULL or decimals_N.max() > MOST_DECIMALS:
        return Digits("full")
    is_whole = decimals_N.max() == 0
    is_set = name == RATE or is_whole
    if is_set and len(np.unique(values_N)) < DISTINCT:
        return Digits("full")
    if is_whole:
        return Digits("full")
    is_single = bool((values_N.astype(np.float32).astype(np.float64) == values_N).all())
    if is_single or significant_N.max() > SINGLE:
        return Digits("full")
    by_decimals = int((decimals_N == decimals_N.max()).sum())
    by_significant = int((significant_N == significant_N.max()).sum())
    if by_significant > by_decimals:
        return Digits("significant", int(significant_N.max()))
    return Digits("decimals", int(decimals_N.max()))


def _decimals(values_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """The decimals of each number as it is written shortest; one too many where none suffice."""
    decimals_N = np.full(len(values_N), MOST_DECIMALS + 1, dtype=np.int64)
    is_open_N = np.ones(len(values_N), dtype=bool)
    for decimals in range(MOST_DECIMALS + 1):
        power = 10.0**decimals
        with np.errstate(over="ignore", invalid="ignore"):
            scaled_N = np.round(values_N * power)
            # the quotient of two exact numbers is rounded as a parser rounds the decimal
            fits_N = is_open_N & (scaled_N / power == values_N) & (np.abs(scaled_N) < 2.0**53)
        decimals_N[fits_N] = decimals
        is_open_N &= ~fits_N
        if not is_open_N.any():
            break
    return decimals_N


def tolerance(values_N: NDArray[np.float64], digits: Digits) -> NDArray[np.float64]:
    """How far each number may be from the one that was computed exactly, (N,)."""
    with np.errstate(invalid="ignore"):
        widths_N = digits.half_units(values_N) + 0.5 * ARITHMETIC * np.abs(values_N)
    return np.where(np.isfinite(widths_N), widths_N, 0.0)
