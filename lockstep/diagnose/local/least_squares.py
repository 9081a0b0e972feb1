"""Weighted least squares over many tensors: some numbers are shared, others are each tensor's own.

The error of an element is the rounding of what was recorded, of which a bound is known. Elements
whose roundings cannot be told apart count as one: parameters on the same grid that move by the same
step are all rounded alike.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.oracle.arithmetic import Array

__all__ = ["RARE", "Block", "Estimate", "Fit", "clusters_of", "fit", "pooled"]

BLIND = 1e-11  # eigenvalue, relative to the largest, below which float64 tells nothing of it
SLIGHT = 1e-3
"""Share of its error by which a number may change with a sum that the elements do not tell."""
TRACE = 1e-12
"""Component of an eigenvector below which it is rounding."""
RARE = 1e-3
"""Share of elements that may lie beyond twice their bound: underflow, and fast division."""
TYPICAL = 0.6
"""Largest root mean square of residuals over their bounds: 1 / sqrt(3) for errors that are equally
likely anywhere within them."""
SIGNAL = 100.0
"""Least root mean square of the target over its bound, for a formula to be told from its
neighbours."""
FREEDOM = 3
"""Least number of elements beyond the numbers that are fitted to them."""
DIGITS = 12.0
"""Least number of decimal digits that these elements agree in, all together."""


class Estimate(NamedTuple):
    """A number that was measured.

    Attributes:
        value: the estimate.
        spread: its standard error by roundings that are independent.
        floor: a bound on an error that all elements share, as of a rounded hyperparameter.
    """

    value: float
    spread: float
    floor: float = 0.0

    @property
    def error(self) -> float:
        """The standard error: 4 of them hold the floor."""
        return math.hypot(self.spread, self.floor / 4)

    def times(self, factor: float) -> "Estimate":
        """The estimate of a multiple."""
        size = abs(factor)
        return Estimate(self.value * factor, self.spread * size, self.floor * size)

    def with_floor(self, floor: float) -> "Estimate":
        """With another error that all elements share, on top of what there is."""
        return Estimate(self.value, self.spread, self.floor + floor)


class Block(NamedTuple):
    """The elements of a tensor.

    Attributes:
        shared: columns whose coefficients are the same in all tensors (n, S).
        own: columns whose coefficients are this tensor's (n, T).
        target: what the columns add up to (n,).
        bound: on the rounding error of each element (n,).
        cluster: elements of one number have one rounding error, up to the sign of the target (n,);
            None where all are independent.
    """

    shared: Array
    own: Array
    target: Array
    bound: Array
    cluster: NDArray[np.int64] | None = None


class Fit(NamedTuple):
    """The coefficients, and how well they hold.

    Attributes:
        shared: S estimates. Of what the elements do not tell, the spread is infinite.
        own: T estimates of each tensor.
        ratios: residual over bound of each element of each tensor.
        signal: root mean square of target over bound.
        freedom: elements beyond the numbers that were fitted.
    """

    shared: list[Estimate]
    own: list[list[Estimate]]
    ratios: list[Array]
    signal: float
    freedom: int

    @property
    def holds(self) -> bool:
        """Whether rounding explains all that is left, and the target is no rounding itself."""
        if self.freedom < FREEDOM or not self.signal >= SIGNAL:
            return False
        is_evidence = self.freedom * math.log10(self.signal) >= DIGITS
        return is_evidence and within_rounding(np.concatenate(self.ratios))

    @property
    def misfit(self) -> float:
        """Sum of squared residuals over bounds."""
        return float(sum((ratios**2).sum() for ratios in self.ratios))


def clusters_of(target: Array, grid: NDArray[np.int32] | None = None) -> NDArray[np.int64]:
    """Numbers (n,) that are one where targets have one size, and lie on one grid: they are rounded
    alike.
    """
    key = np.abs(target).view(np.int64)
    if grid is not None:
        key = key ^ (grid.astype(np.int64) << 52)
    _, cluster = np.unique(key, return_inverse=True)
    return np.asarray(cluster, dtype=np.int64)


def within_rounding(ratios: Array) -> bool:
    """Whether residuals over their bounds are what rounding leaves."""
    if not np.isfinite(ratios).all():
        return False
    far = np.abs(ratios) > 2
    if far.sum() > RARE * len(ratios):
        return False
    near = ratios[~far]
    return bool(math.sqrt((near**2).mean()) <= TYPICAL) if len(near) else True


def fit(blocks: Sequence[Block]) -> Fit:
    """The coefficients that leave the least, in units of the bounds."""
    shared = blocks[0].shared.shape[1]
    own = blocks[0].own.shape[1]
    size = shared + len(blocks) * own
    columns: list[Array] = []
    places: list[NDArray[np.int64]] = []
    left: list[Array] = []
    normal = np.zeros((size, size))
    meat = np.zeros((size, size))
    for number, block in enumerate(blocks):
        scaled = np.concatenate([block.shared, block.own], axis=1) / block.bound[:, None]
        begin = shared + number * own
        place = np.concatenate([np.arange(shared), np.arange(begin, begin + own)])
        square = np.ix_(place, place)
        product = scaled.T @ scaled
        normal[square] += product
        meat[square] += product
        if block.cluster is not None:
            sums = _cluster_sums(scaled * np.sign(block.target)[:, None], block.cluster)
            meat[square] += sums.T @ sums
        columns.append(scaled)
        places.append(place)
        left.append(block.target / block.bound)
    squares = [float(target @ target) for target in left]
    count = sum(len(target) for target in left)
    if not (np.isfinite(normal).all() and all(map(math.isfinite, squares))):
        return _nothing(blocks)
    inverse, untold = _inverse(normal)
    coefficients = np.zeros(size)
    for _ in range(3):  # the second and third time mend the rounding of the first
        right = np.zeros(size)
        for scaled, place, rest in zip(columns, places, left):
            right[place] += scaled.T @ rest
        change = inverse @ right
        coefficients += change
        left = [rest - scaled @ change[place] for scaled, place, rest in zip(columns, places, left)]
    variance = ((inverse @ meat) * inverse).sum(axis=1) / 3
    spread = np.sqrt(np.maximum(variance, 0.0))
    # where the elements tell nothing of a sum of numbers, these may be large and cancel
    spread[untold * math.sqrt(sum(squares)) > SLIGHT * spread] = np.inf
    estimates = [Estimate(float(v), float(s)) for v, s in zip(coefficients, spread)]
    return Fit(
        shared=estimates[:shared],
        own=[estimates[shared + k * own : shared + (k + 1) * own] for k in range(len(blocks))],
        ratios=left,
        signal=math.sqrt(sum(squares) / max(count, 1)),
        freedom=count - size,
    )


def _nothing(blocks: Sequence[Block]) -> Fit:
    """The fit of numbers that are not finite."""
    unknown = Estimate(math.nan, math.inf)
    own = [[unknown] * block.own.shape[1] for block in blocks]
    ratios = [np.full(len(block.target), np.inf) for block in blocks]
    return Fit([unknown] * blocks[0].shared.shape[1], own, ratios, math.nan, 0)


def _cluster_sums(columns: Array, cluster: NDArray[np.int64]) -> Array:
    sums = [np.bincount(cluster, column) for column in columns.T]
    return np.stack(sums, axis=1)


def _inverse(normal: Array) -> tuple[Array, Array]:
    """The pseudo-inverse of a normal matrix, and how far each coefficient moves along what the
    matrix does not tell; infinite where its column is 0.
    """
    diagonal = np.sqrt(np.diag(normal))
    scale = np.where(diagonal > 0, diagonal, 1.0)
    values, vectors = np.linalg.eigh(normal / np.outer(scale, scale))
    is_told = values > BLIND * values.max(initial=0.0)
    told = vectors[:, is_told]
    inverse = (told / values[is_told]) @ told.T / np.outer(scale, scale)
    blind = np.where(np.abs(vectors) > TRACE, vectors, 0.0)[:, ~is_told]
    untold = np.sqrt((blind**2).sum(axis=1)) / scale
    return inverse, np.where(diagonal > 0, untold, np.inf)


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """The mean, the sharper estimates counting more. Their errors may all be one: those of
    parameters that were rounded alike in every tensor.
    """
    known = [estimate for estimate in estimates if math.isfinite(estimate.spread)]
    if not known:
        return Estimate(0.0, math.inf)
    least = max(min(estimate.error for estimate in known) * 1e-6, 1e-300)
    weights = np.array([1 / max(estimate.error, least) ** 2 for estimate in known])
    weights = weights / weights.sum()
    value, spread, floor = (weights @ np.array(known, dtype=np.float64)).tolist()
    return Estimate(value, spread, floor)
