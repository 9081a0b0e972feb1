"""Forward pass and gradients of the multilayer perceptron, by hand."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.oracle.activations import activate, slope_of
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.loss import Targets, loss_and_slope
from lockstep.recipe import Model, Recipe

__all__ = [
    "Pass",
    "Statistics",
    "backward",
    "forward",
    "loss_and_gradients",
    "running_statistics",
]

Parameters = dict[str, Array]
Statistics = dict[str, Array]
"""Running statistics of norm = "batch": `norm<i>.mean` and `norm<i>.var` (..., 1, units)."""


class Pass(NamedTuple):
    """The outputs of a forward pass.

    Attributes:
        outputs: layer -> its output (..., B, units), from "input" through "linear1", "norm1",
            "relu1", "dropout1", ... to the logits, as far as the model has them.
        inner: what `backward` and `running_statistics` need besides.
    """

    outputs: dict[str, Array]
    inner: dict[str, Array]


def forward(
    model: Model,
    parameters: Parameters,
    x_BD: Array,
    arithmetic: Exact,
    *,
    statistics: Mapping[str, Array] | None = None,
    masks: Sequence[NDArray[np.bool_]] = (),
) -> Pass:
    """The model's outputs.

    Args:
        model: its layers.
        parameters: biases and normalisation weights as single rows.
        x_BD: the rows that count.
        arithmetic: exact or perturbed.
        statistics: the running statistics of batch normalisation, in evaluation; without them it
            takes the rows' own, as in training.
        masks: in training with dropout, which units stay: a mask (B, units) for each hidden layer.
    """
    outputs = {"input": x_BD}
    inner: dict[str, Array] = {}
    h_BH = x_BD
    low = arithmetic.compute
    for i in range(1, len(model.hidden) + 2):
        h_BH = low.dot(h_BH, low.cast(parameters[f"linear{i}.weight"], f"linear{i}.weight"))
        if model.bias:
            bias = low.cast(parameters[f"linear{i}.bias"], f"linear{i}.bias")
            h_BH = low.near(h_BH + bias, np.maximum(np.abs(h_BH), np.abs(bias)))
        outputs[f"linear{i}"] = h_BH
        if i > len(model.hidden):
            break
        if model.norm != "none":
            normalised = _normalise(model, i, parameters, h_BH, statistics, inner, arithmetic)
            h_BH = low.cast(normalised)
            outputs[f"norm{i}"] = h_BH
        inner[f"z{i}"] = h_BH
        h_BH = activate(model.activation, h_BH, low)
        outputs[f"{model.activation}{i}"] = h_BH
        if masks:
            h_BH = _drop(model, h_BH, masks[i - 1], low)
            outputs[f"dropout{i}"] = h_BH
    return Pass(outputs, inner)


def backward(
    model: Model,
    parameters: Parameters,
    passed: Pass,
    slope: Array,
    arithmetic: Exact,
    *,
    masks: Sequence[NDArray[np.bool_]] = (),
) -> Parameters:
    """The gradient by every parameter, of its shape.

    Args:
        model: its layers.
        parameters: as in `forward`.
        passed: of a `forward` without `statistics` and with the same `masks`.
        slope: the gradient by the last layer's outputs (..., B, K).
        arithmetic: exact or perturbed.
        masks: as in `forward`.
    """
    gradients: Parameters = {}
    outputs = list(passed.outputs.values())
    names = list(passed.outputs)
    low = arithmetic.compute
    slope = low.cast(slope)
    for i in range(len(model.hidden) + 1, 0, -1):
        h_BH = outputs[names.index(f"linear{i}") - 1]
        gradients[f"linear{i}.weight"] = low.dot(h_BH.swapaxes(-1, -2), slope)
        if model.bias:
            gradients[f"linear{i}.bias"] = _sum(slope, -2, low)
        if i == 1:
            break
        weight = low.cast(parameters[f"linear{i}.weight"], f"linear{i}.weight")
        slope = low.dot(slope, weight.swapaxes(-1, -2))
        if masks:
            slope = _drop(model, slope, masks[i - 2], low)
        bend = slope_of(model.activation, passed.inner[f"z{i - 1}"], low)
        # a factor of 0 or 1 does not round
        slope = slope * bend if model.activation == "relu" else low.round(slope * bend)
        if model.norm != "none":
            normalised = _normalise_backward(
                model, i - 1, parameters, passed, slope, gradients, arithmetic
            )
            slope = low.cast(normalised)
    return gradients


def running_statistics(
    model: Model, statistics: Mapping[str, Array], passed: Pass, rows: int, arithmetic: Exact
) -> Statistics:
    """Batch normalisation's running mean and variance after a training pass over so many rows."""
    share = arithmetic.constant("share", model.norm_momentum)
    rest = arithmetic.constant("kept", 1 - model.norm_momentum)
    after: Statistics = {}
    for name, before in statistics.items():
        of_rows = passed.inner[name]
        if name.endswith("var") and model.norm_variance == "unbiased":
            of_rows = arithmetic.round(of_rows * (rows / (rows - 1)))
        size = np.maximum(np.abs(before), np.abs(of_rows))
        after[name] = arithmetic.near(rest * before + share * of_rows, size)
    return after


def _normalise(
    model: Model,
    i: int,
    parameters: Parameters,
    z: Array,
    statistics: Mapping[str, Array] | None,
    inner: dict[str, Array],
    arithmetic: Exact,
) -> Array:
    """(z - mean) / sqrt(variance + eps) x weight + bias; the variance is over n. What `backward`
    needs of it goes into `inner`.

    Layer normalisation takes both over the units of a row (Ba et al., arXiv:1607.06450), batch
    normalisation over the rows of a unit (Ioffe & Szegedy, arXiv:1502.03167), or in evaluation the
    running ones.
    """
    norm = f"norm{i}"
    axis = _axis(model)
    if model.norm == "batch" and statistics is not None:
        mean = statistics[f"{norm}.mean"]
        variance = statistics[f"{norm}.var"]
        centred = arithmetic.round(z - mean)
    else:
        size = np.abs(z).mean(axis=axis, keepdims=True)
        mean = arithmetic.near(z.mean(axis=axis, keepdims=True), size)
        centred = arithmetic.round(z - mean)
        variance = arithmetic.round(np.square(centred).mean(axis=axis, keepdims=True))
        # the slope of 1 / sqrt(v) goes by v to the power of -3/2
        variance = arithmetic.within(variance, 1.5)
    eps = arithmetic.constant("norm_eps", model.norm_eps)
    inverse = arithmetic.round(1 / np.sqrt(variance + eps))
    normal = arithmetic.round(centred * inverse)
    weight = parameters[f"{norm}.weight"]
    bias = parameters[f"{norm}.bias"]
    inner |= {
        f"{norm}.mean": mean,
        f"{norm}.var": variance,
        f"{norm}.inverse": inverse,
        f"{norm}.normal": normal,
    }
    # as z x (inverse x weight) + (bias - mean x (inverse x weight)), which can cancel
    size = (np.abs(z) + np.abs(mean)) * inverse * np.abs(weight) + np.abs(bias)
    return arithmetic.near(normal * weight + bias, size)


def _normalise_backward(
    model: Model,
    i: int,
    parameters: Parameters,
    passed: Pass,
    slope: Array,
    gradients: Parameters,
    arithmetic: Exact,
) -> Array:
    """dz = (g - mean(g) - y mean(g y)) / sqrt(variance + eps).

    y is the normalised z, before weight and bias, and g the gradient by it; the means are over the
    axis of the statistics. The gradients by weight and bias go into `gradients`.
    """
    norm = f"norm{i}"
    axis = _axis(model)
    normal = passed.inner[f"{norm}.normal"]
    inverse = passed.inner[f"{norm}.inverse"]
    gradients[f"{norm}.weight"] = _sum(slope * normal, -2, arithmetic)
    gradients[f"{norm}.bias"] = _sum(slope, -2, arithmetic)
    g = arithmetic.round(slope * parameters[f"{norm}.weight"])
    count = g.shape[axis]
    mean = _sum(g, axis, arithmetic) / count
    projection = _sum(g * normal, axis, arithmetic) / count
    size = np.abs(g) + np.abs(mean) + np.abs(normal * projection)
    return arithmetic.near((g - mean - normal * projection) * inverse, size * inverse)


def _axis(model: Model) -> int:
    """The axis over which a normalisation takes its statistics: units or rows."""
    return -1 if model.norm == "layer" else -2


def _drop(model: Model, h_BH: Array, mask_BH: NDArray[np.bool_], arithmetic: Exact) -> Array:
    """Inverted dropout (Srivastava et al., 2014). It is its own transpose, so that gradients pass
    the same way back.
    """
    scale = arithmetic.constant("dropout", 1 / (1 - model.dropout))
    return np.where(mask_BH, arithmetic.round(h_BH * scale), 0.0)


def _sum(terms: Array, axis: int, arithmetic: Exact) -> Array:
    """The sum over an axis, which errs by the sum of the sizes."""
    size = np.abs(terms).sum(axis=axis, keepdims=True)
    return arithmetic.near(terms.sum(axis=axis, keepdims=True), size)


def loss_and_gradients(
    recipe: Recipe,
    parameters: Parameters,
    x_BD: Array,
    y_B: Targets,
    arithmetic: Exact,
    *,
    masks: Sequence[NDArray[np.bool_]] = (),
) -> tuple[Array, Parameters, Pass]:
    """Mean loss (...) over the rows that count, its gradient by every parameter, of the parameter's
    shape, and the pass.
    """
    passed = forward(recipe.model, parameters, x_BD, arithmetic, masks=masks)
    *_, outputs_BK = passed.outputs.values()
    mean, slope = loss_and_slope(recipe.loss, outputs_BK, y_B, arithmetic)
    gradients = backward(recipe.model, parameters, passed, slope, arithmetic, masks=masks)
    return mean, gradients, passed
