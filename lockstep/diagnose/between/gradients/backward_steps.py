"""The backward pass of a chain of linear layers and elementwise steps, computed again."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from lockstep.diagnose.between.gradients.convolution_steps import convolution_of
from lockstep.diagnose.between.pair import Arrays, LoopSide
from lockstep.diagnose.local.features import LINEAR
from lockstep.diagnose.local.layer_view import INPUT, LayerView, distance, layer_view
from lockstep.oracle.activations import activate
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe.activations import ACTIVATIONS

__all__ = ["Path", "gradients_before", "path_to_loss", "slopes_of"]

NEAR = 1e-6
"""Relative error of an elementwise step that is computed again in float32 or better."""
LINEAR_NEAR = 1e-4
"""Relative error of a linear layer that is computed again in float32 or better."""
STEP = 1e-6
"""Of a central difference: the slope of a smooth step is then right to some 1e-10."""


class Path(NamedTuple):
    """From a layer's output z to what it is next, h, and the gradient of the loss by h."""

    z: Array
    h: Array
    delta: Array


def path_to_loss(
    side: LoopSide, order: Sequence[str], layer: str, update: int, tolerance: float
) -> Path | None:
    """What follows a layer up to the loss; None where that is not a chain that is known.

    Args:
        side: whose layers they are.
        order: the layers in call order.
        layer: a linear layer.
        update: counted from 0.
        tolerance: the largest relative error of a layer, or a loss, that is computed again.
    """
    outputs = side.tensors("forward", update)
    names = [name for name in order if name in outputs and not name.endswith(INPUT)]
    if layer not in names:
        return None
    after = names[names.index(layer) + 1 :]
    z = outputs[layer]
    if not after:
        delta = _delta_of_loss(side, z, update, tolerance)
        return None if delta is None else Path(z, z, delta)
    h = outputs[after[0]]
    delta = _delta_of_loss(side, outputs[after[-1]], update, tolerance)
    for number in range(len(after) - 1, 0, -1):
        if delta is None:
            return None
        before = outputs[after[number - 1]]
        delta = _through(side, after[number], before, delta, update, tolerance)
    return Path(z, h, delta) if delta is not None and z.shape == h.shape == delta.shape else None


def _delta_of_loss(side: LoopSide, output: Array, update: int, tolerance: float) -> Array | None:
    """The gradient of the loss by the last output, of the losses that people write."""
    loss = side.series("loss", update)
    if loss is None:
        return None
    for target in (*side.tensors("batch", update).values(), np.zeros(())):
        for value, delta in _losses(output, target):
            if abs(value - loss) <= tolerance / 100 * abs(loss):
                return delta
    return None


def _losses(output: Array, target: Array) -> list[tuple[float, Array]]:
    """Values of losses and their gradients by the output."""
    losses: list[tuple[float, Array]] = []
    if target.dtype.kind == "f" and target.shape in (output.shape, ()):
        gap = output - target
        for scale in (1 / output.size, 1.0, 1 / len(output), 0.5 / output.size, 0.5 / len(output)):
            losses.append((scale * float(np.square(gap).sum()), 2 * scale * gap))
            losses.append((scale * float(np.abs(gap).sum()), scale * np.sign(gap)))
        if not target.ndim:
            losses += [
                (scale * float(output.sum()), np.full(output.shape, scale))
                for scale in (1 / output.size, 1.0)
            ]
    if _are_labels(target, output):
        shifted = output - output.max(1, keepdims=True)
        share = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        rows = np.arange(len(output))
        hot = np.zeros_like(share)
        hot[rows, target] = 1.0
        total = float(-np.log(share[rows, target]).sum())
        losses.append((total / len(output), (share - hot) / len(output)))
        losses.append((total, share - hot))
    return losses


def _are_labels(target: Array, output: Array) -> bool:
    """Whether a target (B,) numbers the columns of an output (B, K)."""
    is_whole = target.dtype.kind in "iu" and output.ndim == 2
    if not is_whole or target.shape != output.shape[:1]:
        return False
    return bool(target.min() >= 0 and target.max() < output.shape[1])


def _through(
    side: LoopSide, layer: str, x: Array, delta: Array, update: int, tolerance: float
) -> Array | None:
    """The gradient by a layer's input x from the one by its output."""
    view = layer_view(side.trace, layer, update)
    if view is None:
        return None
    if view.output.size == x.size and np.array_equal(view.output.ravel(), x.ravel()):
        return delta.reshape(x.shape)
    linear = _linear(view, x, tolerance)
    if linear is not None:
        kernel, order = linear
        return _laid_out(delta @ kernel.T, order, x.shape)
    convolution = convolution_of(view, x, tolerance)
    if convolution is not None:
        return convolution.gradient_by_input(delta)
    if view.parameters or view.output.shape != x.shape:
        return None
    for kind in ACTIVATIONS:
        if distance(activate(kind, x, Exact()), view.output) <= tolerance / 100:
            return np.asarray(delta * _slope_of(kind, x))
    return None


def _slope_of(kind: str, x: Array) -> Array:
    ahead, behind = (activate(kind, x + step, Exact()) for step in (STEP, -STEP))
    return np.asarray((ahead - behind) / (2 * STEP))


def _linear(
    view: LayerView, x: Array, tolerance: float
) -> tuple[Array, tuple[int, ...] | None] | None:
    """The kernel (in, out) of a linear layer that takes x, and the order in which x is flattened
    before; None as the order where it is not.
    """
    alone = replace(view, inputs={"x": x})
    for settings in LINEAR.settings(alone):
        if distance(LINEAR.output(alone, settings), view.output) <= tolerance:
            kernel = next(array for array in view.parameters.values() if array.ndim == 2)
            order: Any = settings["order"]
            return kernel.T if settings["turned"] else kernel, order
    return None


def _laid_out(gradient: Array, order: tuple[int, ...] | None, shape: tuple[int, ...]) -> Array:
    """The gradient by flattened features, in the shape that these had."""
    if order is None:
        return np.asarray(gradient)
    axes = (0, *order)
    return gradient.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))


def gradients_before(side: LoopSide, layer: str, update: int, delta: Array) -> Arrays | None:
    """The gradients of a linear layer's parameters by the gradient of its output, and of the layers
    before it as far as they are such a chain.
    """
    view = layer_view(side.trace, layer, update)
    gradients: Arrays = {}
    while view is not None:
        convolution = next(
            (
                (name, found)
                for name, x in view.inputs.items()
                for found in [convolution_of(view, x, LINEAR_NEAR)]
                if found is not None
            ),
            None,
        )
        if convolution is not None:
            source, of_view = convolution
            gradients |= of_view.gradients(delta)
            delta = of_view.gradient_by_input(delta)
        else:
            fed = _fed(view)
            if fed is None:
                break
            source, x, kernel, is_turned = fed
            if delta.shape[-1] != kernel.shape[1]:  # found before is no output of this layer
                break
            gradients |= _gradients_of_linear(view, x, delta, is_turned)
            delta = delta @ kernel.T
        view, delta = _next_before(side, source.removesuffix(INPUT), update, delta)
    return gradients or None


def _gradients_of_linear(view: LayerView, x: Array, delta: Array, is_turned: bool) -> Arrays:
    """The gradients of a linear layer's parameters, by their names."""
    rows = delta.reshape(-1, delta.shape[-1])
    of_kernel = x.reshape(-1, x.shape[-1]).T @ rows
    gradients: Arrays = {}
    for role, array in view.parameters.items():
        name = f"{view.name}.{role}"
        if array.ndim == 2:
            gradients[name] = of_kernel.T if is_turned else of_kernel
        elif array.shape == rows.shape[1:]:
            gradients[name] = rows.sum(0)
    return gradients


def _next_before(
    side: LoopSide, source: str, update: int, delta: Array
) -> tuple[LayerView | None, Array]:
    """The linear layer that feeds a recorded array, through elementwise steps that are known."""
    view = layer_view(side.trace, source, update)
    while view is not None and not view.parameters:
        for (name, x), kind in product(view.inputs.items(), ACTIVATIONS):
            if distance(activate(kind, x, Exact()), view.output) <= NEAR:
                delta = delta * _slope_of(kind, x)
                view = layer_view(side.trace, name, update)
                break
        else:
            return None, delta
    return view, delta


def _fed(view: LayerView) -> tuple[str, Array, Array, bool] | None:
    """What feeds a linear layer: its name, itself, the kernel (in, out), whether that is turned."""
    for settings in LINEAR.settings(view):
        is_plain = settings["order"] is None
        if is_plain and distance(LINEAR.output(view, settings), view.output) < LINEAR_NEAR:
            source = str(settings["input"])
            kernel = next(array for array in view.parameters.values() if array.ndim == 2)
            turned = bool(settings["turned"])
            return source, view.inputs[source], kernel.T if turned else kernel, turned
    return None


def slopes_of(path: Path) -> Array:
    """The slope of the step from z to h, element by element, from the pairs alone: 1 where it
    passes its input on, 0 where it is flat, else what a known function has.
    """
    z, h = path.z, path.h
    for kind in ACTIVATIONS:
        if distance(activate(kind, z, Exact()), h) <= NEAR:
            slope = _slope_of(kind, z)
            return np.where(np.abs(slope) < STEP, 0.0, slope)
    return np.where(np.isclose(h, z, rtol=1e-6, atol=0.0), 1.0, 0.0)
