"""The two arithmetics the oracle runs in: exact float64, and many perturbed copies at once.

Arrays have shape (..., rows, columns); a bias is a single row. `Perturbed` adds a leading axis of
members.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lockstep.records.bounds import SAFETY

__all__ = [
    "BFLOAT16",
    "SAFETY",
    "Array",
    "Constant",
    "Exact",
    "Moments",
    "Perturbed",
    "Rule",
    "unit_roundoff",
]

Array = NDArray[np.float64]
Constant = float | Array
"""A hyperparameter, or several as an array; perturbed, one for each member."""
Moments = dict[str, Array]
"""Slot -> what an optimizer remembers of a parameter there."""
Rule = Callable[[Any, float, int, Array, Array, Moments, "Exact"], tuple[Array, Moments]]
"""(optimizer, lr, update, parameter, gradient, moments, exact) -> the parameter after the update,
and its moments.
"""

POOL = 2**20
"""Number of signs that are drawn once, to take stretches from."""

BFLOAT16 = 2.0**-8
"""Unit roundoff of bfloat16: 8 bits of precision."""


def unit_roundoff(dtype: DTypeLike) -> float:
    """Largest relative error of one rounding to nearest: 2^-24 for float32, 2^-53 for float64."""
    return float(np.finfo(dtype).eps) / 2


class Exact:
    """Plain float64."""

    def dot(self, a: Array, b: Array) -> Array:
        """Matrix product over the last two axes."""
        product: Array = np.matmul(a, b)
        return product

    def near(self, value: Array, size: Constant) -> Array:
        """A value that an evaluation can miss by one rounding of something as large as `size`."""
        return value

    def round(self, value: Array) -> Array:
        """A value that is stored."""
        return value

    def squares(self, total: Array, terms: int) -> Array:
        """A sum of so many squares, each of which may be too small a number for the dtype."""
        return total

    def constant(self, name: str, value: Constant) -> Constant:
        """A hyperparameter, or several as an array, rounded once and then the same at every
        update.
        """
        return value

    def within(self, value: Array, power: float) -> Array:
        """A value that an evaluation raises to a power."""
        return value

    def positive(self, z: Array) -> NDArray[np.bool_]:
        """Where ReLU passes its gradient; at 0 it does not, in both frameworks."""
        return np.greater(z, 0)

    @property
    def compute(self) -> "Exact":
        """The arithmetic of products and activations, where the recipe gives them a precision of
        their own.
        """
        return self

    def cast(self, value: Array, name: str = "") -> Array:
        """A value that goes from the recipe's dtype to that of `compute`. One with a parameter's
        name goes the same way at each update. Where both dtypes are one, nothing happens.
        """
        return value

    def sign(self, value: Array) -> Array:
        """-1, 0 or 1."""
        signs: Array = np.sign(value)
        return signs


class Perturbed(Exact):
    """Member 0 is exact. Every other member errs by one unit roundoff, up or down at random, in
    each operation.

    A dot product of n terms errs by u |a| |b| (2-norms). By the Cauchy-Schwarz inequality this is
    no less than u times the sum of the absolute terms, the first-order size of its error where
    terms cancel (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1).

    Args:
        members: how many err.
        unit: unit roundoff of the recipe's dtype.
        seed: of the directions in which they err.
        compute_unit: unit roundoff of products and activations, where it is another.
    """

    def __init__(
        self, members: int, unit: float, seed: int, compute_unit: float | None = None
    ) -> None:
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self.unit_M11 = unit * (np.arange(members + 1) > 0).reshape(-1, 1, 1)
        # bfloat16 has the range of float32
        limits = np.finfo(np.float64 if unit < 1e-12 else np.float32)
        self.largest = float(limits.max) / 8  # with room for a sum of a few
        self.smallest = float(limits.tiny)
        self.constant_signs: dict[str, Array] = {}
        self.low: Perturbed | None = None
        self.casts = False
        self.pool = self._draw_signs((POOL,))
        if compute_unit is not None:
            self.low = copy.copy(self)
            self.low.unit_M11 = self.unit_M11 * (compute_unit / unit)
            self.low.constant_signs = {}
            self.low.casts = True

    @property
    def compute(self) -> "Perturbed":
        return self.low or self

    def cast(self, value: Array, name: str = "") -> Array:
        if not self.casts:
            return value
        if not name:
            return self.round(value)
        # a parameter that moves by less than a rounding is rounded as before: fresh signs would
        # average out
        return np.asarray(value * (1 + self.unit_M11 * self._constant_signs(name, value.shape)))

    def dot(self, a: Array, b: Array) -> Array:
        size = np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-2, keepdims=True)
        # a gradient multiplies such a product by another, even where a factor of 0 comes after
        return self.within(self.near(super().dot(a, b), size), 2.0)

    def near(self, value: Array, size: Constant) -> Array:
        signs = self._signs(np.broadcast_shapes(value.shape, self.unit_M11.shape))
        return np.asarray(value + self.unit_M11 * signs * size)

    def round(self, value: Array) -> Array:
        return self.near(value, np.abs(value))

    def squares(self, total: Array, terms: int) -> Array:
        # Below the smallest normal number XLA keeps none of a square, PyTorch some of its bits.
        # No sign is drawn: the other roundings stay as they are.
        signs_M = np.where(np.arange(len(total)) % 2, -1.0, 1.0)
        signs_M[self.unit_M11[:, 0, 0] == 0] = 0.0
        lost = terms * self.smallest * signs_M.reshape(-1, *[1] * (total.ndim - 1))
        return np.where(total > 0, np.maximum(total + lost, 0.0), total)

    def constant(self, name: str, value: Constant) -> Constant:
        # a rounded hyperparameter errs the same way at every update, so its sign is drawn once
        return value * (1 + self.unit_M11 * self._constant_signs(name, np.shape(value)))

    def within(self, value: Array, power: float) -> Array:
        # beyond the range of the dtype, or as a divisor below it, nothing is known of what follows
        return np.where(np.abs(value) <= self.largest ** (1 / power), value, np.nan)

    def positive(self, z: Array) -> NDArray[np.bool_]:
        # Inputs nearer to 0 than rounding can tell fall on either side. Each such unit's sign is
        # drawn anew, since a flip seen in one real run need not happen in any of a few members.
        spread = np.abs(z - z[:1]).max(axis=0, keepdims=True)
        undecided = (np.abs(z[:1]) <= spread) & (self._signs(z.shape) > 0)
        undecided[0] = False
        return np.asarray(np.logical_xor(z > 0, undecided))

    def sign(self, value: Array) -> Array:
        # A step by the sign does not shrink with the value. Whatever a right run may turn therefore
        # counts as undecided, not only what these members turn. What is 0 in all of them is 0 in a
        # right run.
        spread = SAFETY * np.abs(value - value[:1]).max(axis=0, keepdims=True)
        undecided = (np.abs(value[:1]) <= spread) & (spread > 0)
        signs = np.where(undecided, self._signs(value.shape), np.sign(value))
        signs[0] = np.sign(value[0])
        return np.asarray(signs)

    def _constant_signs(self, name: str, shape: tuple[int, ...]) -> Array:
        """Signs that are drawn once and kept under a name."""
        if name not in self.constant_signs:
            shape_of_members = np.broadcast_shapes(shape, self.unit_M11.shape)
            self.constant_signs[name] = self._signs(shape_of_members)
        return self.constant_signs[name]

    def _signs(self, shape: tuple[int, ...]) -> Array:
        """Random signs: a stretch of the pool, from a random place on. Drawing each sign anew would
        cost as much as the training.
        """
        size = math.prod(shape)
        if size > POOL // 2:
            return self._draw_signs(shape)
        begin = int(self.generator.integers(0, POOL - size))
        return self.pool[begin : begin + size].reshape(shape)

    def _draw_signs(self, shape: tuple[int, ...]) -> Array:
        """-1 or 1, each drawn anew."""
        bits = self.generator.integers(0, 2, shape, dtype=np.int8)
        return np.asarray(bits * 2.0 - 1.0, dtype=np.float64)
