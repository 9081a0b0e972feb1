"""Forward pass and gradients of the multilayer perceptron, by hand."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.loss import Targets, loss_and_slope
from lockstep.recipe import Loss

__all__ = ["forward", "loss_and_gradients"]

Parameters = dict[str, Array]


def forward(parameters: Parameters, x_BD: Array, activation: str, arithmetic: Exact) -> dict[str, Array]:
    """Layer -> its output (..., B, units), from "input" through "linear1", "relu1", ... to the logits."""
    layers = len(parameters) // 2
    outputs = {"input": x_BD}
    h_BH = x_BD
    for i in range(1, layers + 1):
        weight, bias = parameters[f"linear{i}.weight"], parameters[f"linear{i}.bias"]
        product = arithmetic.dot(h_BH, weight)
        h_BH = outputs[f"linear{i}"] = arithmetic.near(product + bias, np.maximum(np.abs(product), np.abs(bias)))
        if i < layers:
            h_BH = np.maximum(h_BH, 0.0) if activation == "relu" else arithmetic.round(np.tanh(h_BH))
            outputs[f"{activation}{i}"] = h_BH
    return outputs


def loss_and_gradients(
    parameters: Parameters, x_BD: Array, y_B: Targets, activation: str, loss: Loss, arithmetic: Exact
) -> tuple[Array, Parameters]:
    """Mean loss (...) over the rows that count and its gradient by every parameter, of the parameter's shape."""
    layers = len(parameters) // 2
    outputs = forward(parameters, x_BD, activation, arithmetic)
    mean, slope = loss_and_slope(loss, outputs[f"linear{layers}"], y_B, arithmetic)
    gradients: Parameters = {}
    for i in range(layers, 0, -1):
        h_BH = outputs["input" if i == 1 else f"{activation}{i - 1}"]
        gradients[f"linear{i}.weight"] = arithmetic.dot(h_BH.swapaxes(-1, -2), slope)
        gradients[f"linear{i}.bias"] = arithmetic.near(
            slope.sum(axis=-2, keepdims=True), np.abs(slope).sum(axis=-2, keepdims=True)
        )
        if i > 1:
            slope = arithmetic.dot(slope, parameters[f"linear{i}.weight"].swapaxes(-1, -2))
            if activation == "relu":
                slope = slope * arithmetic.positive(outputs[f"linear{i - 1}"])
            else:
                slope = arithmetic.round(slope * arithmetic.near(1 - h_BH**2, 1.0))
    return mean, gradients
