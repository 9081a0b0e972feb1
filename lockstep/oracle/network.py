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
"""norm = "batch": `norm<i>.mean` and `norm<i>.var` (..., 1, units)."""


class Pass(NamedTuple):
    """What a forward pass found.

    `outputs`: layer -> its output (..., B, units), from "input" through "linear1", "norm1",
    "relu1", "dropout1", ...
    to the logits, as far as the model has them. `inner`: what `backward` and `running_statistics`
    need besides.
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
        statistics: in evaluation those of batch normalisation; without them it takes the rows' own,
        as in training. masks: in training with dropout a mask (B, units) for each hidden layer:
        which units stay.
    """
    outputs = {"input": x_BD}
    inner: dict[str, Array] = {}
    h_BH, low = x_BD, arithmetic.compute
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
            h_BH = outputs[f"norm{i}"] = low.cast(normalised)
        inner[f"z{i}"] = h_BH
        h_BH = outputs[f"{model.activation}{i}"] = activate(model.activation, h_BH, low)
        if masks:
            h_BH = outputs[f"dropout{i}"] = _drop(model, h_BH, masks[i - 1], low)
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
    """The gradient by every parameter, of its shape, from that by the last layer's outputs, `slope`
    (..., B, K).

    `passed` is of a `forward` without `statistics` and with the same `masks`.
    """
    outputs, gradients = list(passed.outputs.values()), {}
    names, low = list(passed.outputs), arithmetic.compute
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
    share, kept = (
        arithmetic.constant(name, value)
        for name, value in (("share", model.norm_momentum), ("kept", 1 - model.norm_momentum))
    )
    found: Statistics = {}
    for name, before in statistics.items():
        seen = passed.inner[name]
        if name.endswith("var") and model.norm_variance == "unbiased":
            seen = arithmetic.round(seen * (rows / (rows - 1)))
        found[name] = arithmetic.near(
            kept * before + share * seen, np.maximum(np.abs(before), np.abs(seen))
        )
    return found


def _normalise(
    model: Model,
    i: int,
    parameters: Parameters,
    z: Array,
    statistics: Mapping[str, Array] | None,
    inner: dict[str, Array],
    arithmetic: Exact,
) -> Array:
    """(z - mean) / sqrt(variance + eps) x weight + bias; the variance over n.

    Layer normalisation takes both over the units of a row (Ba et al., arXiv:1607.06450), batch
    normalisation over the rows of a unit (Ioffe & Szegedy, arXiv:1502.03167), or in evaluation the
    running ones.
    """
    norm, axis = f"norm{i}", -1 if model.norm == "layer" else -2
    if model.norm == "batch" and statistics is not None:
        mean, variance = statistics[f"{norm}.mean"], statistics[f"{norm}.var"]
        centred = arithmetic.round(z - mean)
    else:
        mean = arithmetic.near(
            z.mean(axis=axis, keepdims=True), np.abs(z).mean(axis=axis, keepdims=True)
        )
        centred = arithmetic.round(z - mean)
        # the slope of 1 / sqrt(v) goes by v to the power of -3/2
        variance = arithmetic.within(
            arithmetic.round(np.square(centred).mean(axis=axis, keepdims=True)), 1.5
        )
    inverse = arithmetic.round(
        1 / np.sqrt(variance + arithmetic.constant("norm_eps", model.norm_eps))
    )
    normal = arithmetic.round(centred * inverse)
    weight, bias = parameters[f"{norm}.weight"], parameters[f"{norm}.bias"]
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
    """With y the normalised z, before weight and bias, and g the gradient by it:
    dz = (g - mean(g) - y mean(g y)) / sqrt(variance + eps), the means over the axis of the
    statistics."""
    norm, axis = f"norm{i}", -1 if model.norm == "layer" else -2
    normal, inverse = passed.inner[f"{norm}.normal"], passed.inner[f"{norm}.inverse"]
    gradients[f"{norm}.weight"] = _sum(slope * normal, -2, arithmetic)
    gradients[f"{norm}.bias"] = _sum(slope, -2, arithmetic)
    g = arithmetic.round(slope * parameters[f"{norm}.weight"])
    rows = g.shape[axis]
    mean, projection = _sum(g, axis, arithmetic) / rows, _sum(g * normal, axis, arithmetic) / rows
    size = np.abs(g) + np.abs(mean) + np.abs(normal * projection)
    return arithmetic.near((g - mean - normal * projection) * inverse, size * inverse)


def _drop(model: Model, h_BH: Array, mask_BH: NDArray[np.bool_], arithmetic: Exact) -> Array:
    """Inverted dropout (Srivastava et al., 2014): its own transpose, so that gradients pass the
    same way back.
    """
    scale = arithmetic.constant("dropout", 1 / (1 - model.dropout))
    return np.where(mask_BH, arithmetic.round(h_BH * scale), 0.0)


def _sum(terms: Array, axis: int, arithmetic: Exact) -> Array:
    return arithmetic.near(
        terms.sum(axis=axis, keepdims=True), np.abs(terms).sum(axis=axis, keepdims=True)
    )


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
    shape, and the pass."""
    passed = forward(recipe.model, parameters, x_BD, arithmetic, masks=masks)
    *_, outputs_BK = passed.outputs.values()
    mean, slope = loss_and_slope(recipe.loss, outputs_BK, y_B, arithmetic)
    return mean, backward(recipe.model, parameters, passed, slope, arithmetic, masks=masks), passed
