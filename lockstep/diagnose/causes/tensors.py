"""Named tensors: those of a family, a function of each, and how far two sets of them are apart."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from lockstep.oracle.arithmetic import Array

__all__ = ["FLOOR", "NO_NOISE", "Tensors", "each", "family", "only", "residual", "scales", "times"]

Tensors = dict[str, Array]
"""family/name -> float64 array: "gradients/linear1.weight", "moments/first/linear1.weight",
"loss/mean".
"""

FLOOR = 1e-3
"""A tensor smaller than this share of the largest of its family is judged against that share. The
gradient of a bias in front of a batch normalisation, for one, is rounding and nothing else."""

NO_NOISE: Mapping[str, float] = MappingProxyType({})


def family(name: str, tensors: Tensors) -> Tensors:
    """The tensors with the name of a family before theirs: "gradients/linear1.weight"."""
    return {f"{name}/{key}": array for key, array in tensors.items()}


def only(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names begin with the prefix, by their whole names."""
    return {name: array for name, array in tensors.items() if name.startswith(prefix)}


def each(function: Callable[[Array], Array], tensors: Tensors) -> Tensors:
    """A function of each tensor."""
    return {name: function(array) for name, array in tensors.items()}


def times(factor: float, tensors: Tensors) -> Tensors:
    """Each tensor multiplied."""
    return {name: factor * array for name, array in tensors.items()}


def residual(tensors: Tensors, recorded: Tensors, noise: Mapping[str, float] = NO_NOISE) -> float:
    """The largest relative error, in the 2-norm, of a tensor that both have; infinite where there
    is none.

    `noise` is the 2-norm of what storing a tensor may have done to it: so much of an error does not
    count.
    """
    names = tensors.keys() & recorded.keys()
    sizes = scales({name: recorded[name] for name in names}, tensors)
    worst = 0.0 if names else np.inf
    for name in names:
        if tensors[name].shape != recorded[name].shape:
            return np.inf
        gap = _distance(tensors[name], recorded[name])
        if not np.isfinite(gap):
            return np.inf
        gap = max(gap - noise.get(name, 0.0), 0.0)
        worst = max(worst, gap / sizes[name] if gap else 0.0)
    return worst


def scales(recorded: Tensors, tensors: Tensors) -> dict[str, float]:
    """The 2-norm of each recorded tensor's finite values, or of the other side's where that is
    larger, and no less than `FLOOR` of its family's largest.
    """
    sizes: dict[str, float] = {}
    largest: dict[str, float] = {}
    for name, array in recorded.items():
        size = _size(array)
        if name in tensors:
            size = max(size, _size(tensors[name]))
        sizes[name] = size
        largest[_family_of(name)] = max(largest.get(_family_of(name), 0.0), size)
    return {name: max(size, FLOOR * largest[_family_of(name)]) for name, size in sizes.items()}


def _family_of(name: str) -> str:
    return name.rpartition("/")[0]


def _distance(array: Array, other: Array) -> float:
    """The 2-norm of the difference; what is the same, or NaN on both sides, counts as 0."""
    same = (array == other) | (np.isnan(array) & np.isnan(other))
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(np.where(same, 0.0, array - other)))


def _size(array: Array) -> float:
    """The 2-norm of the finite values."""
    return float(np.linalg.norm(array[np.isfinite(array)]))
