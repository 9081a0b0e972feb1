"""The ways to clip gradients: which of them a loop's own gradients before and after show."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lockstep.diagnose.between.pair import Arrays
from lockstep.diagnose.causes.tensors import residual
from lockstep.diagnose.local.difference import NEAR, likely
from lockstep.diagnose.local.gradient_scale import norm_of
from lockstep.numbers import number

__all__ = ["ClipWay", "clip_way", "scaled"]

FEWEST = 8
"""Elements that a way must explain."""
EPS = (0.0, 1e-6)
"""What is added to the norm of a group: by Optax and by PyTorch."""
AT_BOUND = 2
"""Elements that must lie at a bound for it to be one."""


@dataclass(frozen=True)
class ClipWay:
    """What a clip does to the gradients of an update.

    Attributes:
        kind: "none", "norm", "value", "tensors", "layers" or "part".
        bound: the norm, or the largest element, after it; 0 for "none".
        predicted: the gradients after it.
        factor: what all gradients are multiplied by, of the kinds "none" and "norm".
        norm: of the gradients that are clipped.
        names: of the kind "part", the parameters whose gradients are clipped.
    """

    kind: str
    bound: float
    predicted: Arrays
    factor: float
    norm: float
    names: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """ "clips by the norm at 0.1"."""
        at = number(likely(self.bound, 1e-6 * self.bound), 4)
        if self.kind == "value":
            return f"clips by value: each element at {at}"
        if self.kind == "tensors":
            return f"clips each tensor's own norm at {at}"
        if self.kind == "layers":
            return f"clips each layer's own norm at {at}"
        if self.kind == "part":
            more = f" and {len(self.names) - 3} more" if len(self.names) > 3 else ""
            return f"clips {', '.join(self.names[:3])}{more} alone, to the norm {at}"
        if self.kind == "none":
            return "does not clip"
        if self.factor > 1:
            return f"scales its gradient to the norm {at} although it is shorter"
        return f"clips by the norm of all gradients at {at}"


def scaled(factor: float, gradients: Arrays) -> Arrays:
    """All gradients times a factor."""
    return {name: factor * array for name, array in gradients.items()}


def clip_way(gradients: Arrays, clipped: Arrays, near: float) -> ClipWay | None:
    """The way from gradients to what was recorded after the clip; None where it is none of these.

    Args:
        gradients: before the clip.
        clipped: after it, of the same names and shapes.
        near: largest relative error.
    """
    gradients = {name: gradients[name] for name in clipped if name in gradients}
    if gradients.keys() != clipped.keys() or sum(a.size for a in clipped.values()) < FEWEST:
        return None
    if not all(np.isfinite(a).all() for a in (*gradients.values(), *clipped.values())):
        return None
    for way in _ways(gradients, clipped, near):
        if residual(way.predicted, clipped) <= near:
            return way
    return None


def _ways(gradients: Arrays, clipped: Arrays, near: float) -> Iterator[ClipWay]:
    norm = norm_of(gradients)
    yield ClipWay("none", 0.0, gradients, 1.0, norm)
    square = norm**2
    if not square:
        return
    product = sum(float((gradients[name] * clipped[name]).sum()) for name in clipped)
    factor = product / square
    yield ClipWay("norm", factor * norm, scaled(factor, gradients), factor, norm)
    bound = max(float(np.abs(array).max(initial=0.0)) for array in clipped.values())
    at_bound = sum(
        int((np.abs(np.abs(array) - bound) <= near * bound).sum()) for array in clipped.values()
    )
    if at_bound >= AT_BOUND:
        limited = {name: np.clip(array, -bound, bound) for name, array in gradients.items()}
        yield ClipWay("value", bound, limited, math.nan, norm)
    groupings: Mapping[str, Callable[[str], str]] = {
        "tensors": lambda name: name,
        "layers": lambda name: name.rpartition(".")[0],
    }
    for kind, group_of in groupings.items():
        yield from _in_groups(kind, group_of, gradients, clipped, near)
    yield from _of_part(gradients, clipped, near)


def _in_groups(
    kind: str, group_of: Callable[[str], str], gradients: Arrays, clipped: Arrays, near: float
) -> Iterator[ClipWay]:
    """Each group's own norm clipped at one bound, which at least two groups reach."""
    groups: dict[str, list[str]] = {}
    for name in gradients:
        groups.setdefault(group_of(name), []).append(name)
    before = {key: norm_of({n: gradients[n] for n in names}) for key, names in groups.items()}
    after = {key: norm_of({n: clipped[n] for n in names}) for key, names in groups.items()}
    largest = max(after, key=lambda key: after[key])
    shortened = [key for key in groups if after[key] < before[key] * (1 - 10 * near)]
    if largest not in shortened or len(groups) < 2:
        return
    if len(shortened) < 2 and after[largest] < max(after[key] for key in groups if key != largest):
        return
    for eps in EPS:
        bound = after[largest] * (1 + eps / before[largest])
        predicted: Arrays = {}
        for key, names in groups.items():
            factor = min(1.0, bound / (before[key] + eps)) if before[key] else 1.0
            predicted |= {name: factor * gradients[name] for name in names}
        yield ClipWay(kind, bound, predicted, math.nan, norm_of(gradients))


def _of_part(gradients: Arrays, clipped: Arrays, near: float) -> Iterator[ClipWay]:
    """Some tensors scaled by one factor, and the others left as they are."""
    part = {
        name: gradients[name]
        for name in gradients
        if residual({name: gradients[name]}, {name: clipped[name]}) > NEAR * near
    }
    square = norm_of(part) ** 2
    if not part or len(part) == len(gradients) or not square:
        return
    factor = sum(float((part[name] * clipped[name]).sum()) for name in part) / square
    if not near < factor < 1:  # a factor of 0 takes a gradient away, which is no clip
        return
    predicted = gradients | scaled(factor, part)
    norm = math.sqrt(square)
    yield ClipWay("part", factor * norm, predicted, factor, norm, tuple(part))
