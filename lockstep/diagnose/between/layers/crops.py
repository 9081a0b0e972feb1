"""A loss that is taken of part of a layer's output, cropped by the loop after the layer."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair, LoopSide
from lockstep.diagnose.local.transposed_convolutions import shift_in_words
from lockstep.oracle.arithmetic import Array

__all__ = ["other_crop"]

PAGE = "transposed-convolution-crop"
IDEA = "a loss of another crop of the last output"
MOST_STARTS = 500
AGREE = 1e-6
"""Relative error of a loss in float32 that is computed again; in float64 it is far below."""
UPDATES = 3
"""Updates at which a crop must give the loss, where so many were recorded."""


def _squares(of: Array, target: Array) -> float:
    return float(np.square(of - target).mean())


def _absolutes(of: Array, target: Array) -> float:
    return float(np.abs(of - target).mean())


def _cross_entropies(of: Array, target: Array) -> float:
    """Of logits against flags, the mean over all elements."""
    return float((np.logaddexp(0, of) - target * of).mean())


LOSSES: tuple[Callable[[Array, Array], float], ...] = (_squares, _absolutes, _cross_entropies)


class _Crop(NamedTuple):
    """How a side takes its loss: the target, the place in LOSSES, its factor, and where the crop
    begins.
    """

    target: str
    loss: int
    factor: float
    starts: tuple[int, ...]


def other_crop(pair: LoopPair) -> Iterator[Explanation]:
    """That the loss of a side is of another part of the last layer's output."""
    layers = [layer for layer in pair.mine.layers if layer in pair.other.layers]
    if not layers or pair.first.tensor != "loss":
        return
    layer = layers[-1]
    mine, other = (_crop_of(side, pair, layer) for side in (pair.mine, pair.other))
    if mine is None or other is None or mine[0].starts == other[0].starts:
        return
    crop, loss = mine
    if crop[:3] != other[0][:3]:
        return
    shape = pair.mine.tensors("forward", pair.update)[layer].shape
    part = pair.mine.tensors("batch", pair.update)[crop.target].shape
    cropped = [axis for axis, (n, m) in enumerate(zip(shape, part)) if n != m]
    of = {
        side.name: tuple(found.starts[axis] for axis in cropped)
        for side, found in ((pair.mine, crop), (pair.other, other[0]))
    }
    steps = [b - a for a, b in zip(of["a"], of["b"])]
    text = (
        f"what follows {layer} differs: b's loss is taken of another crop of it, shifted by "
        f"{shift_in_words(steps)}: from {_place(of['b'])} where a's is from {_place(of['a'])}"
    )
    yield Explanation("loss-of-another-crop", text, {"loss": np.array(loss)}, IDEA, PAGE)


def _place(starts: tuple[int, ...]) -> str:
    return str(starts[0]) if len(set(starts)) == 1 else str(starts)


def _crop_of(side: LoopSide, pair: LoopPair, layer: str) -> tuple[_Crop, float] | None:
    """The one crop that gives a side's loss at several updates, and the loss at the pair's."""
    updates = [update for update in side.trace.header.get("detail", []) if update != pair.update]
    first = _at(side, layer, pair.update)
    others = [at for update in updates[:UPDATES] for at in [_at(side, layer, update)] if at]
    if first is None or not others:
        return None
    crops = [
        _Crop(name, kind, factor, starts)
        for name, target in first.targets.items()
        for starts in _starts(first.output.shape, target.shape)
        for kind, factor in product(range(len(LOSSES)), (1.0, 0.5))
    ]
    for at in (first, *others):
        crops = [crop for crop in crops if abs(_loss_of(crop, at) - at.loss) <= AGREE * at.loss]
    return (crops[0], _loss_of(crops[0], first)) if len(crops) == 1 else None


class _At(NamedTuple):
    """A layer's output at an update, the arrays of the batch that may be its target, the loss."""

    output: Array
    targets: dict[str, Array]
    loss: float


def _at(side: LoopSide, layer: str, update: int) -> _At | None:
    output = side.tensors("forward", update).get(layer)
    loss = side.series("loss", update)
    if output is None or loss is None:
        return None
    targets = {
        name: target
        for name, target in side.tensors("batch", update).items()
        if target.dtype.kind == "f" and target.ndim == output.ndim >= 2
    }
    return _At(output, targets, loss)


def _starts(whole: tuple[int, ...], part: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Where a part of this shape may begin."""
    spare = [length - of_part for length, of_part in zip(whole, part)]
    if (
        min(spare) < 0
        or spare[0]
        or not any(spare)
        or np.prod([places + 1 for places in spare]) > MOST_STARTS
    ):
        return
    yield from product(*(range(places + 1) for places in spare))


def _loss_of(crop: _Crop, at: _At) -> float:
    target = at.targets.get(crop.target)
    if target is None:
        return np.inf
    cut = tuple(slice(start, start + n) for start, n in zip(crop.starts, target.shape))
    part = at.output[cut]
    return crop.factor * LOSSES[crop.loss](part, target) if part.shape == target.shape else np.inf
