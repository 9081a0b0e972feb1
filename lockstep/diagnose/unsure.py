"""Steps of which rounding decides: those that an optimizer makes of a gradient that may be 0.

An optimizer that divides by the gradient's own size, as Adam, or takes its sign, makes a full step
of a gradient however small it is. Where the gradient lies within its own bound of 0, as that of an
attention's key bias does, whose true value is 0, two right runs may step either way. By

    share = min(1, bound / |gradient|)

of an element its step says nothing; the steps of both sides, times the share, are added to the
bound on the parameter. An optimizer whose step is in proportion to the gradient makes none of it,
and nothing is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace

__all__ = ["UnsureSteps", "unsure_steps"]

MEMORY = 0.9
"""How much of a share the next update inherits: as much as momentum keeps by default."""
AVERAGES = ("first", "second")
"""Slots that are means of gradients or of their squares: what is noise there is small. So is the
momentum of an optimizer that has nothing else.
"""
HALF = 0.5
"""A smaller share changes the norm of a step by less than the other terms of its bound."""
FAMILIES = ("clip", "gradients")
"""What an optimizer is given: the first of these that was recorded."""


@dataclass
class UnsureSteps:
    """What unsure steps add to the bounds.

    Attributes:
        bounds: name of an array -> what is added to the bound of either side.
        set_aside: tensor -> how many of its elements part by more than the bound without unsure
            steps, and of how many.
    """

    bounds: dict[str, Array] = field(default_factory=dict)
    set_aside: dict[str, tuple[int, int]] = field(default_factory=dict)


def unsure_steps(a: Trace, b: Trace, bounds: Mapping[str, Array]) -> UnsureSteps:
    """What the bounds lack where gradients lie within their bound of 0.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        bounds: of either side, by the size of the tensors.
    """
    unsure = UnsureSteps()
    updates = int(a.header["updates"])
    shares: dict[str, Array] = {}
    largest: dict[str, Array] = {}
    widths: dict[str, Array] = {}
    before_a = a.parameters(0)
    before_b = b.parameters(0)
    squares_T = np.zeros(updates)
    changes_T = np.zeros(updates)
    last = 0
    for update in range(updates):
        _see_gradients(a, b, update, bounds, shares)
        for name, share in shares.items():
            largest[name] = np.maximum(share, largest.get(name, 0.0))
        unsure.bounds |= _of_moments(a, b, update, bounds, largest)
        after_a = a.parameters(update + 1)
        after_b = b.parameters(update + 1)
        if not after_a or not after_b:
            continue
        for name, share in shares.items():
            if name not in after_a or name not in before_a or name not in after_b:
                continue
            steps = [
                np.abs(after[name].astype(np.float64) - before[name])
                for after, before in ((after_a, before_a), (after_b, before_b))
            ]
            way = steps[0] + steps[1]
            with np.errstate(invalid="ignore"):  # of a run that left the numbers
                width = np.where(np.isfinite(share * way), share * way / 2, 0.0)
                unsure_squares = np.where((share > HALF) & np.isfinite(way), width * way, 0.0)
            changes_T[last : update + 1] += np.square(unsure_squares).sum()
            squares_T[last : update + 1] += np.square(steps[0]).sum()
            widths[name] = widths.get(name, 0.0) + width
            key = f"parameters/{update + 1}/{name}"
            if key in bounds:
                gap = np.abs(after_a[name].astype(np.float64) - after_b[name])
                _add(unsure, key, name, widths[name], gap > 2 * bounds[key])
        before_a, before_b, last = after_a, after_b, update + 1
    if "updates/update_norm" in bounds:
        # the norm of steps s changes by the sum of s ds over the norm; signs alone do not change it
        with np.errstate(divide="ignore", invalid="ignore"):
            change_T = np.sqrt(changes_T / squares_T) / 2
        unsure.bounds["updates/update_norm"] = np.where(squares_T > 0, change_T, 0.0)
    return unsure


def _see_gradients(
    a: Trace, b: Trace, update: int, bounds: Mapping[str, Array], shares: dict[str, Array]
) -> None:
    """Take in the gradients of an update."""
    for name in shares:
        shares[name] = MEMORY * shares[name]
    for family in FAMILIES:
        prefix = f"detail/{update}/{family}/"
        keys = [key for key in bounds if key.startswith(prefix)]
        for key in keys:
            name = key.removeprefix(prefix)
            size = np.maximum(_size(a.arrays[key]), _size(b.arrays[key]))
            bound = 2 * bounds[key]
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(size > bound, bound / size, 1.0)
            shares[name] = np.maximum(share, shares.get(name, 0.0))
        if keys:
            return


def _of_moments(
    a: Trace, b: Trace, update: int, bounds: Mapping[str, Array], shares: Mapping[str, Array]
) -> dict[str, Array]:
    """What is added to the bounds of what an optimizer remembers: it may be of normalised steps, or
    of their signs, and for good.
    """
    prefix = f"detail/{update}/moments/"
    keys = [key for key in bounds if key.startswith(prefix)]
    slots = {key.removeprefix(prefix).partition("/")[0] for key in keys}
    averages = AVERAGES if len(slots) > 1 else (*AVERAGES, "momentum")
    added = {}
    for key in keys:
        slot, _, name = key.removeprefix(prefix).partition("/")
        share = shares.get(name)
        if slot in averages or share is None or share.shape != a.arrays[key].shape:
            continue
        width = share * (_size(a.arrays[key]) + _size(b.arrays[key])) / 2
        added[key] = np.where(np.isfinite(width), width, 0.0)
    return added


def _size(gradient: NDArray[Any]) -> Array:
    return np.abs(gradient.astype(np.float64))


def _add(
    unsure: UnsureSteps, key: str, name: str, width: Array, is_beyond: NDArray[np.bool_]
) -> None:
    """Widen the bound of a parameter, and say so where it matters."""
    unsure.bounds[key] = width
    aside, _ = unsure.set_aside.get(name, (0, 0))
    aside = max(aside, int(is_beyond.sum()))
    if aside:
        unsure.set_aside[name] = aside, is_beyond.size
