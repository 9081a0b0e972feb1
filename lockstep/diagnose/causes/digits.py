"""Tensors that were computed in a lower precision than the run's, told by their digits."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.causes.alternatives import Cause
from lockstep.diagnose.causes.precision import rounded_to
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.tensors import Tensors, residual
from lockstep.diagnose.compare import Difference
from lockstep.diagnose.loops import is_loop
from lockstep.diagnose.units import FLOAT32, coarsest_dtype, unit_of_dtype
from lockstep.oracle.arithmetic import Array

__all__ = ["low_precision"]

BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}
"""Format -> bits of its significand, the coarsest first."""

CHANCE = 28
"""Bits that would have to be 0 by chance: a right run looks like one of lower precision once in
2^28 times.
"""

ROUNDINGS = 64.0
"""Unit roundoffs of the lower format within which its result lies of the right one, relative to the
tensor. A product of some hundred terms, or a function of a rounded argument, comes to a tenth of
that. What is farther off is wrong in another way too."""

OFF = 2.0**9
"""Unit roundoffs of the run's own precision beyond which a tensor is off, relative."""

STAGES = ("forward", "loss", "gradients", "clip", "moments", "update", "parameters")
NOUNS = {
    "gradients": "gradient of",
    "clip": "clipped gradient of",
    "update": "optimizer's step of",
    "parameters": "update of",
}


class _Digits(NamedTuple):
    """The coarsest format that has all digits of a tensor, "" where that is no coarser than the
    run's, and how many bits of the tensor it leaves at 0 that the right values need.
    """

    format_name: str
    bits: float


class _Way(NamedTuple):
    """The tensors that may have been computed in low precision: recorded, right, and what storing
    may have done to each element.
    """

    mine: Tensors
    its: Tensors
    noise: Mapping[str, Array]


def low_precision(
    first: Difference, side: Side, recorded: Tensors, null: Tensors, right: str = "the right values"
) -> Cause | None:
    """That a side computed the tensor at which it is off in fewer digits than the run has.

    Args:
        first: where the traces part.
        side: the side that is off.
        recorded: what it recorded of the stage, "family/name" -> float64 array.
        null: what that should be, recomputed or the other side's.
        right: whose values these are.

    Returns:
        None where the digits do not say so, or where something else is off too.
    """
    if first.stage not in STAGES or _is_meant(side):
        return None
    if first.stage in ("update", "parameters"):
        ways = _ways_of_update(side, recorded, null)
    else:
        ways = _ways_of_tensors(first, side, recorded, null)
    for way in ways:
        low = _low(first, side, way)
        if not low:
            continue
        names = list(low)
        word = low[names[0]].format_name
        gap = _gap(way.its, way.mine, names)
        is_reported = first.stage == "loss" and _has_right_gradients(side, recorded, null)
        verb = "reported" if is_reported else "computed"
        text = (
            f"{side.name}'s {_named(names)} {verb} in {word}: the values have {word}'s digits, "
            f"{right} have more"
        )
        return Cause("low-precision", text, "", side.name, 0.0, gap)
    return None


def _is_meant(side: Side) -> bool:
    """Whether the recipe itself asks for products in a lower precision, or a loop computes in one
    throughout: its bounds have that already.
    """
    if is_loop(side.trace) and unit_of_dtype(coarsest_dtype(side.trace)) > FLOAT32:
        return True
    if side.recipe is None or not side.declares("training"):
        return False
    return side.recipe.training.compute != "same"


def _ways_of_tensors(first: Difference, side: Side, recorded: Tensors, null: Tensors) -> list[_Way]:
    """The tensors of a stage; for the forward pass the one that is off, and the product in it
    without its bias.
    """
    names = [name for name in recorded if name.startswith(f"{first.stage}/") and name in null]
    if first.stage == "forward":
        names = [name for name in names if name == f"forward/{first.tensor}"]
    mine = {name: recorded[name] for name in names}
    its = {name: null[name] for name in names}
    ways = [_Way(mine, its, {})]
    bias = None
    if first.stage == "forward":
        bias = side.parameters(side.update).get(f"{first.tensor}.bias")
    if bias is not None and names and bias.shape[-1] == mine[names[0]].shape[-1]:
        # a product in low precision, to which the bias was added in the run's
        (name,) = names
        size = np.abs(mine[name]) + np.abs(bias)
        noise = {name: 2 * _unit(side.precision) * size}
        ways.append(_Way({name: mine[name] - bias}, {name: its[name] - bias}, noise))
    return ways


def _ways_of_update(side: Side, recorded: Tensors, null: Tensors) -> list[_Way]:
    """The parameters themselves, or the step, which they store with their own rounding."""
    before = side.parameters(side.update)
    after = side.parameters(side.update + 1)
    names = [name for name in after if f"update/{name}" in recorded.keys() & null.keys()]
    stored = {f"parameters/{name}": after[name] for name in names}
    right_stored = {f"parameters/{name}": before[name] + null[f"update/{name}"] for name in names}
    steps = {f"update/{name}": recorded[f"update/{name}"] for name in names}
    right_steps = {f"update/{name}": null[f"update/{name}"] for name in names}
    noise = {f"update/{name}": 2 * _unit(side.precision) * np.abs(after[name]) for name in names}
    return [_Way(stored, right_stored, {}), _Way(steps, right_steps, noise)]


def _low(first: Difference, side: Side, way: _Way) -> dict[str, _Digits]:
    """The tensors that have the digits of one lower format, where they explain what is off; else
    none.
    """
    precision = side.precision
    mine, its, noise = way
    off = [
        name
        for name in mine
        if mine[name].shape == its[name].shape and _gap(its, mine, [name]) > OFF * _unit(precision)
    ]
    low: dict[str, _Digits] = {}
    for name in off:
        digits = _digits(mine[name], its[name], precision, noise.get(name, np.zeros(1)))
        if digits.format_name:
            low[name] = digits
    formats = {digits.format_name for digits in low.values()}
    begins = [name for name in off if name.partition("/")[2] == first.tensor]
    if len(formats) != 1 or any(name not in low for name in begins or off):
        return {}
    (word,) = formats
    bits = sum(digits.bits for digits in low.values())
    if first.stage == "loss":
        bits *= _losses_in(side, word)
    is_near = _gap(its, mine, list(low)) <= ROUNDINGS * _unit(word)
    if bits < CHANCE or not is_near:
        return {}
    rest = [name for name in sorted(low) if name not in begins]
    return {name: low[name] for name in (*begins, *rest)}


def _losses_in(side: Side, format_name: str) -> int:
    """How many losses of the run there are, where all have the digits of a format; else 0."""
    losses_T = side.trace.arrays.get("updates/loss", np.zeros(0)).astype(np.float64)
    low_T = rounded_to(format_name, losses_T)
    same = (losses_T == low_T) | ~np.isfinite(losses_T)
    return int(np.count_nonzero(losses_T)) if same.all() else 0


def _has_right_gradients(side: Side, recorded: Tensors, null: Tensors) -> bool:
    names = [name for name in recorded if name.startswith("gradients/") and name in null]
    return bool(names) and _gap(null, recorded, names) <= OFF * _unit(side.precision)


def _digits(mine: Array, its: Array, precision: str, noise: Array) -> _Digits:
    """The digits that a tensor has, against the right values of the run's precision."""
    for name, bits in BITS.items():
        if bits >= BITS.get(precision, 0):
            break
        lost = np.abs(mine - rounded_to(name, mine))
        if not np.isfinite(mine).all() or (lost > noise).any():
            continue
        needs_more = (np.abs(its - rounded_to(name, its)) > 4 * noise) & (mine != 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            above = np.log2(np.abs(mine) * _unit(name) / noise)
        zeros = np.clip(np.where(noise > 0, above, np.inf), 0.0, BITS[precision] - bits)
        return _Digits(name, float(zeros[needs_more].sum()))
    return _Digits("", 0.0)


def _gap(tensors: Tensors, recorded: Tensors, names: Sequence[str]) -> float:
    """The residual over some of the tensors."""
    return residual(
        {name: tensors[name] for name in names}, {name: recorded[name] for name in names}
    )


def _unit(format_name: str) -> float:
    """Largest relative error of one rounding."""
    return 2.0 ** -BITS[format_name]


def _named(names: Sequence[str]) -> str:
    """The tensors with the noun of their family, and the verb: "tanh1 is", "gradient of
    linear1.weight is".
    """
    family = names[0].partition("/")[0]
    if family == "loss":
        return "loss is"
    tensors = [name.partition("/")[2] for name in names]
    more = f" and {len(tensors) - 2} more" if len(tensors) > 2 else ""
    return f"{NOUNS.get(family, '')} {', '.join(tensors[:2])}{more} is".strip()
