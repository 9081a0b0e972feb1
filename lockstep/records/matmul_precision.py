"""The precision of a framework's matrix products: measured, not read from a flag."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Precision", "measure_precision"]

SIZE = 128
"""Rows and columns of the matrices; large enough for the kernels that a real layer gets."""
BITS = np.finfo(np.float32).nmant + 1
"""Significand bits of float32, with the leading one."""

Product = Callable[[NDArray[np.float32], NDArray[np.float32]], ArrayLike]


class Precision(NamedTuple):
    """How a product of float32 matrices is computed.

    `bits` counts the significand's bits, with the leading one: 24 is float32, 11 TF32 or float16, 8
    bfloat16, and about 16 a float32 that is split into two bfloat16. `subnormals` says whether
    results below 2^-126 are kept; otherwise they are flushed to 0.
    """

    bits: int
    subnormals: bool


def measure_precision(product: Product) -> Precision:
    """The precision of a product of two (N, N) float32 matrices, in its factors and in its sums.

    Args:
        product: (a, b) -> a @ b, as the framework computes it.
    """
    identity = np.eye(SIZE, dtype=np.float32)
    # dense significands: a sum of a few short ones would represent 1 + 2^-k exactly
    dense = np.random.default_rng(0).uniform(1, 2, (SIZE, SIZE)).astype(np.float32)
    bits = min(
        _bits_kept(product(dense, identity), dense),
        _bits_kept(product(identity, dense), dense),
        _bits_summed(product),
    )
    small = product(identity * np.float32(2.0**-100), identity * np.float32(2.0**-40))
    has_subnormals = np.all(np.diag(small) == np.float32(2.0**-140))
    return Precision(bits, bool(has_subnormals))


def _bits_kept(product: ArrayLike, exact: NDArray[np.float32]) -> int:
    """Significand bits that the largest relative error leaves: an error of 2^-p leaves p bits."""
    error = np.abs(np.asarray(product, dtype=np.float64) / exact - 1).max()
    if error == 0:
        return BITS
    if not np.isfinite(error):
        return 0
    return int(np.clip(np.floor(-np.log2(error)), 0, BITS))


def _bits_summed(product: Product) -> int:
    """Significand bits of a sum: row k adds 1 and 2^-k, which are exact in every format."""
    shifts = np.arange(1, BITS)
    ones = np.ones((SIZE, SIZE), dtype=np.float32)
    terms = np.zeros((SIZE, SIZE), dtype=np.float32)
    terms[shifts, 0] = 1
    terms[shifts, 1] = 2.0**-shifts
    sums = np.asarray(product(terms, ones), dtype=np.float64)[shifts, 0]
    exact = sums == 1 + 2.0**-shifts
    return BITS if exact.all() else int(shifts[exact.argmin()])
