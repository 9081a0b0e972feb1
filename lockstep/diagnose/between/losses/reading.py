"""What loss a loop computes: the formula that gives what it recorded, from its own outputs and
batch, at every recorded update.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.losses.places import Places, Target, places_of, targets_of
from lockstep.diagnose.between.losses.weights import (
    Mask,
    Reduction,
    counted,
    declared_counts,
    masks_of,
    reductions_of,
    weights,
)
from lockstep.diagnose.between.pair import Arrays, LoopSide
from lockstep.diagnose.units import FLOAT32, dtype_of, unit_of_dtype
from lockstep.oracle.arithmetic import Array

__all__ = ["Formula", "Scored", "formulas_of", "score", "updates_of", "ways_to_count"]

MOST_UPDATES = 4
"""Recorded updates at which a formula must hold."""
FEWEST = 2
"""Updates at which a formula must hold in float32: of some thousand formulas one may meet one
number by chance."""
ROUNDINGS = 16.0
"""Unit roundoffs that a loss may be off by, relative to its terms."""
OUTPUTS = 3
"""Layers, from the last, whose output may be what the loss takes."""
MOST_FORMULAS = 40
Flags = NDArray[np.bool_]


class Formula(NamedTuple):
    """How a loss follows from outputs and batch."""

    layer: str
    target: Target
    mask: Mask
    reduction: Reduction


class Scored(NamedTuple):
    """A formula at one update: its value, its unit of error, and what it is made of.

    Attributes:
        value: the loss.
        error: by how much rounding may carry the recorded loss from it, absolute.
        counts: (rows, places), the places that count.
        weight: (rows,), the weight of each.
        places: the losses of the places.
    """

    value: float
    error: float
    counts: Flags
    weight: Array
    places: Places


def updates_of(side: LoopSide, until: int | None = None) -> list[int]:
    """The first recorded updates, counted from 0."""
    recorded = [int(update) for update in side.trace.header.get("detail", [])]
    if until is not None:
        recorded = [update for update in recorded if update <= until] or recorded
    return recorded[:MOST_UPDATES]


def score(side: LoopSide, formula: Formula, update: int) -> Scored | None:
    """A formula's loss at an update; None where the update lacks what it needs."""
    places = places_of(side, formula.layer, formula.target, update)
    if places is None:
        return None
    counts = counted(places, formula.mask, side.tensors("batch", update))
    if counts is None or not counts.any():
        return None
    return _scored(places, counts, formula.reduction, _unit(side))


def _scored(places: Places, counts: Flags, reduction: Reduction, unit: float) -> Scored:
    with np.errstate(all="ignore"):
        weight = weights(reduction, counts)
        of_row = np.where(counts, places.losses, 0.0).sum(axis=1)
        value = float((weight * of_row)[of_row != 0].sum())
        error = float(np.abs(weight * counts.sum(axis=1)).sum()) * (1 + places.size)
    return Scored(value, ROUNDINGS * unit * (error + abs(value)), counts, weight, places)


def _unit(side: LoopSide) -> float:
    """The unit roundoff that the loss was computed in: that of the loss as it was recorded, or of a
    loop that holds nothing finer; a loss of autocast is in float32.
    """
    own = unit_of_dtype(dtype_of(side.trace, "updates/loss"))
    of_loop = unit_of_dtype(side.trace.header.get("dtype", "float64"))
    return max(own, min(of_loop, FLOAT32))


def formulas_of(side: LoopSide) -> list[Formula]:
    """The formulas that give a loop's loss at its first recorded updates, the plainest first."""
    if "formulas" not in side.memory:
        side.memory["formulas"] = _formulas_of(side)
    return list(side.memory["formulas"])


def _formulas_of(side: LoopSide) -> list[Formula]:
    if "updates/loss" not in side.trace.arrays or _unit(side) > FLOAT32:
        return []
    updates = updates_of(side)
    fewest = FEWEST if _unit(side) > unit_of_dtype("float64") else 1
    if len(updates) < fewest:
        return []
    holding: list[Formula] = []
    for formula in _candidates(side, updates[0]):
        if all(_holds(side, formula, update) for update in updates[1:]):
            holding.append(formula)
        if len(holding) >= MOST_FORMULAS:
            break
    return holding


def _candidates(side: LoopSide, update: int) -> Iterator[Formula]:
    """The formulas that give the loss of one update."""
    loss = side.series("loss", update)
    if loss is None or not np.isfinite(loss):
        return
    batch = side.tensors("batch", update)
    declared = declared_counts(side.settings)
    unit = _unit(side)
    known: dict[bytes, Weighed] = {}
    for layer in reversed(side.layers[-OUTPUTS:]):
        for target in targets_of(side, layer, update):
            places = places_of(side, layer, target, update)
            if places is None:
                continue
            for mask, counts, reductions in ways_to_count(places, batch, declared, known):
                of_row = np.where(counts, places.losses, 0.0).sum(axis=1)
                scored = of_row != 0
                share = counts.sum(axis=1) * (1 + places.size)
                for reduction, weight in reductions:
                    with np.errstate(all="ignore"):
                        value = float(weight[scored] @ of_row[scored])
                        error = float(np.abs(weight) @ share) + abs(value)
                    if abs(value - loss) <= ROUNDINGS * unit * error:
                        yield Formula(layer, target, mask, reduction)


Weighed = list[tuple[Reduction, Array]]
"""Reductions with the weight of each row."""


def ways_to_count(
    places: Places, batch: Arrays, declared: list[int], known: dict[bytes, Weighed]
) -> Iterator[tuple[Mask, Flags, Weighed]]:
    """Every mask with the places that count under it, and every reduction of these with its
    weights; `known` holds those of before by the places that count.
    """
    rows, width = places.counts.shape
    for mask in masks_of(places, batch):
        counts = counted(places, mask, batch)
        if counts is None or not counts.any():
            continue
        key = counts.tobytes() + bytes([bool(mask.kind)])
        if key not in known:
            with np.errstate(all="ignore"):
                known[key] = [
                    (reduction, weights(reduction, counts))
                    for reduction in reductions_of(rows, width, declared, is_plain=not mask.kind)
                ]
        yield mask, counts, known[key]


def _holds(side: LoopSide, formula: Formula, update: int) -> bool:
    loss = side.series("loss", update)
    scored = score(side, formula, update)
    return loss is not None and scored is not None and abs(scored.value - loss) <= scored.error
