"""Arithmetics that err on purpose: the oracle's functions run in them as a side may have
computed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.oracle.arithmetic import Array, Constant, Exact

__all__ = ["FORMATS", "Kink", "LowProducts", "NoCorrection", "Signs", "WideVariance", "rounded_to"]

Rounding = Callable[[Array], Array]


def _mantissa(bits: int, *, nearest: bool = True) -> Rounding:
    """Rounds to so many bits behind the point, to nearest (ties to even) or towards 0, in float32's
    range.
    """
    dropped = 23 - bits
    drop = np.uint32(dropped)
    half = np.uint32((1 << (dropped - 1)) - 1)
    mask = np.uint32(0xFFFFFFFF ^ ((1 << dropped) - 1))

    def rounded(values: Array) -> Array:
        words = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        if nearest:
            words = words + half + ((words >> drop) & np.uint32(1))
        return (words & mask).view(np.float32).reshape(np.shape(values)).astype(np.float64)

    return rounded


FORMATS: dict[str, Rounding] = {
    "float32": lambda values: values.astype(np.float32).astype(np.float64),
    "TF32": _mantissa(10),
    "TF32, cut off": _mantissa(10, nearest=False),
    "bfloat16": _mantissa(7),
    "bfloat16, cut off": _mantissa(7, nearest=False),
    "float16": lambda values: values.astype(np.float16).astype(np.float64),
}
"""Name -> rounding. TF32 has float32's exponent and 10 bits behind the point, bfloat16 7; some
hardware rounds the factors of a product to nearest, some cuts them off."""


def rounded_to(name: str, values: Array) -> Array:
    """The values rounded to one of `FORMATS`, in float64."""
    with np.errstate(over="ignore"):
        return FORMATS[name](values)


class LowProducts(Exact):
    """Rounds the factors of every matrix product; sums are exact."""

    def __init__(self, format_name: str) -> None:
        self.format_name = format_name

    def dot(self, a: Array, b: Array) -> Array:
        """The product of the rounded factors."""
        return super().dot(rounded_to(self.format_name, a), rounded_to(self.format_name, b))


class NoCorrection(Exact):
    """The powers of these betas count as 0: what starts at 0 is not corrected for it."""

    def __init__(self, *betas: str) -> None:
        self.betas = tuple(f"{beta} power" for beta in betas)

    def constant(self, name: str, value: Constant) -> Constant:
        """0 for a power of one of the betas."""
        return 0.0 * value if name in self.betas else value


class Kink(Exact):
    """ReLU passes this share of the gradient where its input is 0."""

    def __init__(self, share: float) -> None:
        self.share = share

    def positive(self, z: Array) -> NDArray[Any]:
        """1 above 0, the share at it, 0 below."""
        return np.heaviside(z, self.share)


class Signs(Exact):
    """ReLU passes its gradient where it did elsewhere: one mask (rows, units) for each call."""

    def __init__(self, masks: Iterator[NDArray[np.bool_]]) -> None:
        self.masks = masks

    def positive(self, z: Array) -> NDArray[np.bool_]:
        """The next of the masks."""
        return next(self.masks)


class WideVariance(Exact):
    """Normalises by variances over n - 1; it is right in a forward pass only. `sizes` has an n for
    each normalisation.
    """

    def __init__(self, sizes: Iterator[int]) -> None:
        self.sizes = sizes

    def within(self, value: Array, power: float) -> Array:
        """A variance, which is what is taken to the power of 3/2, times n / (n - 1)."""
        n = next(self.sizes) if power == 1.5 else 0
        return value * (n / (n - 1)) if n > 1 else value
