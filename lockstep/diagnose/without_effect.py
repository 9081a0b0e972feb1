"""Outputs of layers that differ between two loops, and change nothing that comes after them.

Two loops may record different tensors under one name: one a layer's output before its activation,
the other after it. Such outputs are no difference of the trainings.

A dropout that is left on in an evaluation changes nothing of the training either. It is a
difference all the same, and told from another tensor by its zeros: one side's output is the other's
with a random share of 0, and what is computed from it differs as well.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lockstep.diagnose.local.drops import drop_between, words_of_drop
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["outputs_without_effect"]

AGREES = {"float32": 1e-4, "float64": 1e-9}
"""Dtype of gradients -> how far they may lie apart, relative to their 2-norm, and still agree."""
DIFFERS = 100.0
"""An output that lies so many times further apart than the gradients may is another tensor."""
EVALUATION = ("eval", "valid", "test", "infer")
"""Parts of names of what an evaluation computes."""
SMALL = 1e-3
"""Gradients below this share of all are compared with this share."""


def outputs_without_effect(a: Trace, b: Trace) -> Iterator[str]:
    """The outputs, as "forward/<layer>", that differ widely at the first update whose tensors are
    recorded, though loss and every gradient of that update agree.

    Nothing is given where gradients were recorded in a low precision, or not all of them.

    Args:
        a: a loop.
        b: the other, in A's names and layouts.
    """
    updates = [update for update in a.header.get("detail", []) if update in b.header["detail"]]
    if not updates:
        return
    prefix = f"detail/{updates[0]}/"
    ours, theirs = (arrays_below(trace.arrays, prefix) for trace in (a, b))
    tolerance = _tolerance(ours, theirs)
    names = {name for name in a.parameters(0) if name not in a.header.get("buffers", [])}
    gradients = {name for name in ours if name.startswith("gradients/")}
    low = {**a.header.get("array_dtypes", {}), **b.header.get("array_dtypes", {})}
    is_whole = not gradients & low.keys()
    is_whole = (
        is_whole
        and gradients == {f"gradients/{name}" for name in names}
        and gradients <= theirs.keys()
    )
    if not tolerance or not gradients or not is_whole:
        return
    if not _losses_agree(a, b, updates[0], tolerance) or not all(
        _agree(ours[name], theirs[name], tolerance, SMALL * _norm(ours, gradients))
        for name in gradients
    ):
        return
    layers = [f"forward/{layer}" for layer in a.header.get("layers", [])]
    apart = []
    for name in sorted(ours, key=lambda name: layers.index(name) if name in layers else -1):
        output, other = ours[name], theirs.get(name)
        if not name.startswith("forward/") or other is None or other.shape != output.shape:
            continue
        if output.dtype.kind == "f" and not _agree(output, other, DIFFERS * tolerance, 0.0):
            apart.append(name)
    yield from apart[: _first_dropped(apart, layers, ours, theirs)]


def _first_dropped(
    apart: Sequence[str],
    layers: Sequence[str],
    ours: Mapping[str, Array],
    theirs: Mapping[str, Array],
) -> int:
    """The place among the outputs that differ from which on they are a dropout's doing; their
    number where none is.
    """
    for place, name in enumerate(apart):
        one, other = (arrays[name].astype(np.float64) for arrays in (ours, theirs))
        drops = [drop_between(one, other), drop_between(other, one)]
        if not any(drop is not None and words_of_drop(drop, "", "", "") for drop in drops):
            continue
        behind = layers[layers.index(name) + 1 :] if name in layers else []
        recorded = [layer for layer in behind if layer in ours and layer in theirs]
        is_named = any(word in name.lower() for word in EVALUATION)
        if is_named or (recorded and recorded[:1] == apart[place + 1 : place + 2]):
            return place
    return len(apart)


def _tolerance(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """How far gradients may lie apart; 0 where one is of another dtype than those known."""
    found = [
        AGREES.get(array.dtype.name, 0.0)
        for arrays in (ours, theirs)
        for name, array in arrays.items()
        if name.startswith("gradients/")
    ]
    return max(found) if found and min(found) > 0 else 0.0


def _losses_agree(a: Trace, b: Trace, update: int, tolerance: float) -> bool:
    losses = [trace.arrays.get("updates/loss", np.zeros(0)) for trace in (a, b)]
    if min(len(series) for series in losses) <= update:
        return False
    one, other = (float(series[update]) for series in losses)
    return math.isfinite(one) and abs(one - other) <= tolerance * abs(one)


def _norm(arrays: Mapping[str, Array], names: set[str]) -> float:
    return math.sqrt(sum(float(np.square(arrays[name], dtype=np.float64).sum()) for name in names))


def _agree(one: Array, other: Array, tolerance: float, least: float) -> bool:
    """Whether two arrays lie within the tolerance, relative to their 2-norm or to `least`."""
    if one.shape != other.shape:
        return False
    with np.errstate(all="ignore"):
        gap = float(np.linalg.norm((one.astype(np.float64) - other).ravel()))
        size = float(np.linalg.norm(one.astype(np.float64).ravel()))
        if not math.isfinite(gap):  # they agree where they are infinite, or one is another tensor
            infinite = [np.where(np.isfinite(array), 0, array) for array in (one, other)]
            is_same = np.array_equal(infinite[0], infinite[1], equal_nan=True)
            finite = np.isfinite(one) & np.isfinite(other)
            return is_same and _agree(one[finite], other[finite], tolerance, least)
    return bool(gap <= tolerance * max(size, least))
