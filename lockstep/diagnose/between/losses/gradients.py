"""The gradients of the last layer, recomputed from outputs, batch and a formula of the loss."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.losses.places import Places, Target, places_of, targets_of
from lockstep.diagnose.between.losses.reading import (
    OUTPUTS,
    Formula,
    Weighed,
    formulas_of,
    score,
    updates_of,
    ways_to_count,
)
from lockstep.diagnose.between.losses.weights import declared_counts
from lockstep.diagnose.between.pair import Arrays, LoopSide
from lockstep.diagnose.causes.tensors import residual
from lockstep.oracle.arithmetic import Array

__all__ = ["LastLayer", "gradient_formulas", "gradients_by"]

MOST_FORMULAS = 40
MOST_INPUTS = 16
"""Inputs of the last layer of which the kernel's gradient is computed, where it has no bias."""


class LastLayer(NamedTuple):
    """The parameters that the outputs come of: names in the trace, "" where there is none."""

    output: str
    bias: str
    kernel: str


def gradient_formulas(
    side: LoopSide, until: int, tolerance: float
) -> tuple[LastLayer, list[Formula]] | None:
    """The formulas whose gradients a loop recorded, the plainest first; None where its last layer
    or its batch is not known.

    Args:
        side: a loop.
        until: the last update to look at, counted from 0.
        tolerance: largest relative error of a gradient.
    """
    if "gradient formulas" not in side.memory:
        side.memory["gradient formulas"] = _gradient_formulas(side, until, tolerance)
    known: tuple[LastLayer, list[Formula]] | None = side.memory["gradient formulas"]
    return known


def _gradient_formulas(
    side: LoopSide, until: int, tolerance: float
) -> tuple[LastLayer, list[Formula]] | None:
    updates = [update for update in updates_of(side, until) if side.tensors("gradients", update)]
    if not updates:
        return None
    for output in reversed(side.layers[-OUTPUTS:]):
        layer = _last_layer(side, output, updates[0])
        if layer is None:
            continue
        own = [side.tensors("gradients", updates[0]).get(name) for name in layer[1:]]
        if not any(array is not None and array.any() for array in own):
            continue  # a frozen layer's gradient of 0 fits whatever counts nothing
        holding = []
        for formula in _candidates(side, layer, updates[0], tolerance):
            later = updates[1:]
            if all(_holds(side, layer, formula, update, tolerance) for update in later):
                holding.append(formula)
            if len(holding) >= MOST_FORMULAS:
                break
        if holding:
            return layer, holding
    return None


def _last_layer(side: LoopSide, output: str, update: int) -> LastLayer | None:
    """The parameters of the layer of an output, by its name."""
    outputs = side.tensors("forward", update).get(output)
    if outputs is None or not outputs.ndim:
        return None
    gradients = side.tensors("gradients", update)
    width = outputs.shape[-1]
    own = {name for name in gradients if name.rpartition(".")[0] == output}
    bias = next((name for name in own if gradients[name].shape == (width,)), "")
    kernel = next(
        (
            name
            for name in sorted(own)
            if gradients[name].ndim == 2 and width in gradients[name].shape
        ),
        "",
    )
    return LastLayer(output, bias, kernel) if bias or kernel else None


def _candidates(
    side: LoopSide, layer: LastLayer, update: int, tolerance: float
) -> Iterator[Formula]:
    """The formulas that give the gradients of one update."""
    batch = side.tensors("batch", update)
    declared = declared_counts(side.settings)
    gradients = side.tensors("gradients", update)
    known: dict[bytes, Weighed] = {}
    for target in _targets(side, layer, update):
        places = places_of(side, layer.output, target, update)
        if places is None:
            continue
        slopes = _Slopes(side, layer, places, update)
        for mask, counts, reductions in ways_to_count(places, batch, declared, known):
            slopes.count(counts)
            for reduction, weight in reductions:
                predicted = slopes.gradients(weight)
                if _is_near(gradients, predicted, tolerance):
                    yield Formula(layer.output, target, mask, reduction)


def _targets(side: LoopSide, layer: LastLayer, update: int) -> Iterator[Target]:
    """Those of the formulas of the loss first: gradients seldom come of another."""
    known = [formula.target for formula in formulas_of(side)]
    yield from dict.fromkeys([*known, *targets_of(side, layer.output, update)])


class _Slopes:
    """The gradients of the last layer by the weights of the rows."""

    def __init__(self, side: LoopSide, layer: LastLayer, places: Places, update: int) -> None:
        self.layer = layer
        self.slopes = places.slopes
        self.counts = places.counts
        self.inputs = _inputs(side, layer, places, update) if layer.kernel else None
        self.is_turned = False
        gradient = side.tensors("gradients", update).get(layer.kernel)
        if gradient is not None and self.inputs is not None:
            width = self.slopes.shape[-1]
            self.is_turned = gradient.shape[0] == width and gradient.shape[1] != width
            square = gradient.shape == (width, width)
            if square:  # PyTorch lays out its kernels as (out, in), which names of b follow
                self.is_turned = layer.kernel.endswith("weight")
        self.by_row: Array = np.zeros(0)

    def count(self, counts: np.ndarray) -> None:
        """Take the places that count."""
        self.counts = counts
        self.by_row = np.where(counts[..., None], self.slopes, 0.0).sum(axis=1)

    def gradients(self, weight: Array) -> Arrays:
        """The gradients of bias and kernel."""
        with np.errstate(all="ignore"):
            weight = np.where(self.counts.any(axis=1), weight, 0.0)
            predicted: Arrays = {}
            if self.layer.bias:
                predicted[self.layer.bias] = weight @ self.by_row
            elif self.inputs is not None:
                predicted[self.layer.kernel] = self.kernel(weight)
        return predicted

    def kernel(self, weight: Array) -> Array:
        """The gradient of the kernel."""
        weighed = np.where(self.counts[..., None], self.slopes, 0.0) * weight[:, None, None]
        assert self.inputs is not None
        flat = self.inputs.reshape(-1, self.inputs.shape[-1])
        gradient = flat.T @ weighed.reshape(-1, weighed.shape[-1])
        return gradient.T if self.is_turned else gradient


def _inputs(side: LoopSide, layer: LastLayer, places: Places, update: int) -> Array | None:
    """What was fed to the last layer, (rows, places, inputs); None where that is not known."""
    gradient = side.tensors("gradients", update)[layer.kernel]
    outputs = side.tensors("forward", update)
    width = outputs[layer.output].shape[-1]
    wide = gradient.shape[1] if gradient.shape[0] == width else gradient.shape[0]
    known = side.input_of(layer.output, update)
    before = side.layers[: side.layers.index(layer.output)]
    options = [known] if known is not None else []
    options += [outputs[name] for name in reversed(before) if name in outputs]
    options += list(side.tensors("batch", update).values())
    rows, used = places.counts.shape
    kernel = side.parameters(update).get(layer.kernel)
    for option in options:
        if option.dtype.kind != "f" or option.ndim < 2 or option.shape[-1] != wide:
            continue
        if option.size // wide != outputs[layer.output].size // width or len(option) != rows:
            continue
        flat = option.reshape(rows, -1, wide)
        if flat.shape[1] < used:  # each number of an output is a place of its own
            continue
        if kernel is not None and _gives(flat, kernel, side, layer, update):
            return flat[:, :used]
    return None


def _gives(x: Array, kernel: Array, side: LoopSide, layer: LastLayer, update: int) -> bool:
    """Whether an input times the kernel, plus the bias, is the output."""
    output = side.tensors("forward", update)[layer.output]
    output = output.reshape(*x.shape[:2], -1)
    bias = side.parameters(update).get(layer.bias, np.zeros(1))
    for matrix in (kernel, kernel.T):
        if matrix.shape == (x.shape[-1], output.shape[-1]):
            product = x @ matrix + bias
            if residual({"": product}, {"": output}) <= NEAR:
                return True
    return False


NEAR = 1e-3
"""How near a layer's product must be to its output to tell that it is its input."""


def gradients_by(side: LoopSide, layer: LastLayer, formula: Formula, update: int) -> Arrays:
    """The gradients of the last layer by a formula; empty where they cannot be computed."""
    scored = score(side, formula, update)
    if scored is None:
        return {}
    by_row = _Slopes(side, layer, scored.places, update)
    by_row.count(scored.counts)
    predicted = by_row.gradients(scored.weight)
    if layer.kernel and by_row.inputs is not None:
        weight = np.where(scored.counts.any(axis=1), scored.weight, 0.0)
        predicted[layer.kernel] = by_row.kernel(weight)
    return predicted


def _holds(
    side: LoopSide, layer: LastLayer, formula: Formula, update: int, tolerance: float
) -> bool:
    predicted = gradients_by(side, layer, formula, update)
    return bool(predicted) and _is_near(side.tensors("gradients", update), predicted, tolerance)


def _is_near(gradients: Arrays, predicted: Arrays, tolerance: float) -> bool:
    recorded = {name: gradients[name] for name in predicted if name in gradients}
    return bool(recorded) and residual(predicted, recorded) <= tolerance
