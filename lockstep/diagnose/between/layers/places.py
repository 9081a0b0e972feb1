"""The layer at which two loops part: its output on both sides, and what it may be computed from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lockstep.diagnose.between.pair import LoopPair
from lockstep.oracle.arithmetic import Array

__all__ = ["Place", "contrast_of", "gap", "place_of"]

MOST_ELEMENTS = 2**20
"""Elements of an output that is computed again, at most."""
EQUAL = 0.1
"""Share of the tolerance of an explanation within which two arrays count as one."""


@dataclass(frozen=True)
class Place:
    """A layer's output on both sides, and the arrays that are equal on both.

    Attributes:
        layer: its name in the trace.
        mine: the output of the side to be explained, any shape, float64.
        other: the other side's, of the same shape.
        inputs: the arrays of the forward pass and the batch that are equal on both sides, the
            nearest before the layer first; integers stay integers.
        known: the name of the array that fed the layer; "" where that is not known.
        own: last part of the name -> the layer's own parameters.
        parameters: name -> all parameters that are equal on both sides.
        tolerance: the largest relative error of an explanation.
    """

    layer: str
    mine: Array
    other: Array
    inputs: Mapping[str, Array]
    known: str
    own: Mapping[str, Array]
    parameters: Mapping[str, Array]
    tolerance: float

    @property
    def targets(self) -> tuple[Array, Array]:
        """The outputs of both sides."""
        return self.mine, self.other

    @property
    def is_finite(self) -> bool:
        """Whether both sides' outputs hold numbers alone."""
        return all(bool(np.isfinite(target).all()) for target in self.targets)

    def floats(self) -> Iterator[tuple[str, Array]]:
        """The inputs that hold finite numbers of floating point: the known one alone, if any."""
        if self.known:
            array = self.inputs[self.known]
            if array.dtype.kind == "f":
                yield self.known, array
            return
        for name, array in self.inputs.items():
            if array.dtype.kind == "f" and array.ndim and np.isfinite(array).all():
                yield name, array

    def integers(self) -> Iterator[tuple[str, Array]]:
        """The inputs that hold whole numbers, such as tokens and masks."""
        for name, array in self.inputs.items():
            if array.dtype.kind in "iub" and array.ndim:
                yield name, array


def contrast_of(pair: LoopPair) -> Place | None:
    """The layer for explanations that hold both sides' ways against one another, and so need be
    asked for with b as `mine` alone; None with a.
    """
    return place_of(pair) if pair.mine.name == "b" else None


def place_of(pair: LoopPair) -> Place | None:
    """The layer at which the loops part; None where its output is not recorded in one shape."""
    if "place" not in pair.memory:
        pair.memory["place"] = _place_of(pair)
    place: Place | None = pair.memory["place"]
    return place


def _place_of(pair: LoopPair) -> Place | None:
    layer, update = pair.first.tensor, pair.update
    outputs, others = (side.tensors("forward", update) for side in (pair.mine, pair.other))
    mine, other = outputs.get(layer), others.get(layer)
    if mine is None or other is None or mine.shape != other.shape:
        return None
    if mine.dtype.kind != "f" or not 0 < mine.size <= MOST_ELEMENTS:
        return None
    inputs: dict[str, Array] = {}
    for name in reversed(_before(pair, layer)):
        if name in outputs and _is_same(outputs[name], others.get(name), pair.tolerance):
            inputs[name] = outputs[name]
    batch, other_batch = (side.tensors("batch", update) for side in (pair.mine, pair.other))
    for name, array in batch.items():
        if _is_same(array, other_batch.get(name), pair.tolerance):
            inputs[f"batch/{name}"] = array
    parameters, others = (side.parameters(update) for side in (pair.mine, pair.other))
    equal = {
        name: array
        for name, array in parameters.items()
        if _is_same(array, others.get(name), pair.tolerance)
    }
    own = layer.removesuffix(".input").partition("#")[0]
    return Place(
        layer,
        mine,
        other,
        inputs,
        _known(pair, layer, inputs),
        {
            name.rpartition(".")[2]: array
            for name, array in equal.items()
            if own in (name, name.rpartition(".")[0])
        },
        equal,
        pair.tolerance,
    )


def _before(pair: LoopPair, layer: str) -> list[str]:
    """The layers before one, in the order of the aligned traces; all others where it has none."""
    layers = pair.mine.layers if pair.mine.name == "a" else pair.other.layers
    known = [*layers]
    for name in pair.mine.tensors("forward", pair.update):
        if name not in known:
            known.append(name)
    if known == sorted(known):
        return [name for name in known if name != layer]
    return known[: known.index(layer)] if layer in known else known


def _known(pair: LoopPair, layer: str, inputs: Mapping[str, Array]) -> str:
    for side in (pair.mine, pair.other):
        source = (side.trace.header.get("inputs") or {}).get(layer, "")
        name = str(source).removeprefix("forward/")
        if name in inputs:
            return name
    return ""


def _is_same(mine: Array, other: Array | None, tolerance: float) -> bool:
    if other is None or other.shape != mine.shape:
        return False
    if mine.dtype.kind != "f" or other.dtype.kind != "f":
        return bool(np.array_equal(mine, other))
    return gap(mine, other) <= EQUAL * tolerance


def gap(array: Array, recorded: Array) -> float:
    """The relative error of an array in the 2-norm; infinite where it has another shape, or is not
    finite where the other is.
    """
    if array.shape != recorded.shape:
        return np.inf
    same = (array == recorded) | (np.isnan(array) & np.isnan(recorded))
    with np.errstate(all="ignore"):
        apart = float(np.linalg.norm(np.where(same, 0.0, array - recorded)))
    size = float(np.linalg.norm(recorded[np.isfinite(recorded)]))
    if not np.isfinite(apart):
        return np.inf
    return apart / size if size else float(apart > 0) * np.inf if apart else 0.0
