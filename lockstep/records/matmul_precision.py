"""In how many bits a framework multiplies matrices: measured with products, not read from a
flag.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Precision", "measure_precision"]

SIZE = 128  # of the square matrices; large enough for the kernels that a real layer gets
BITS = np.finfo(np.float32).nmant + 1

Product = Callable[[NDArray[np.float32], NDArray[np.float32]], Any]


class Precision(NamedTuple):
    """How a product of float32 matrices is computed.

    `bits` are those of the significand, with the leading one: 24 is float32, 11 TF32 or float16, 8
    bfloat16, about 16
    a float32 split into two bfloat16. `subnormals` says whether results below 2^-126 are kept, or
    flushed to 0.
    """

    bits: int
    subnormals: bool


def measure_precision(product: Product) -> Precision:
    """What a product of two (N, N) float32 matrices keeps of its factors and of its sums.

    Args:
        product: (a, b) -> a @ b, as the framework computes it.
    """
    identity = np.eye(SIZE, dtype=np.float32)
    # dense significands: a sum of a few short ones would represent 1 + 2^-k exactly
    dense = np.random.default_rng(0).uniform(1, 2, (SIZE, SIZE)).astype(np.float32)
    kept = min(
        _bits_kept(product(*factors), dense) for factors in ((dense, identity), (identity, dense))
    )
    small = product(identity * np.float32(2.0**-100), identity * np.float32(2.0**-40))
    return Precision(
        min(kept, _bits_summed(product)), bool(np.all(np.diag(small) == np.float32(2.0**-140)))
    )


def _bits_kept(found: Any, expected: NDArray[np.float32]) -> int:
    """Significand bits, from the largest relative error: half a unit in the last of p bits is 2^-p
    of 1.
    """
    error = np.abs(np.asarray(found, dtype=np.float64) / expected - 1).max()
    return (
        BITS
        if error == 0
        else int(np.clip(np.floor(-np.log2(error)), 0, BITS))
        if np.isfinite(error)
        else 0
    )


def _bits_summed(product: Product) -> int:
    """Significand bits of a sum: row k of the first factor is 1 and 2^-k, both exact in any
    format.
    """
    terms, ones = np.zeros((SIZE, SIZE), dtype=np.float32), np.ones((SIZE, SIZE), dtype=np.float32)
    shifts = np.arange(1, BITS)
    terms[shifts, 0], terms[shifts, 1] = 1, 2.0**-shifts
    sums = np.asarray(product(terms, ones), dtype=np.float64)[shifts, 0]
    exact = sums == 1 + 2.0**-shifts
    return BITS if exact.all() else int(shifts[exact.argmin()])
