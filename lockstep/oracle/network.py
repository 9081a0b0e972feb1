"""Forward, loss and gradients of the multilayer perceptron, by hand."""

import numpy as np
from numpy.typing import NDArray

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["cross_entropy", "forward", "loss_and_gradients", "mean_loss"]

Parameters = dict[str, Array]
Labels = NDArray[np.int64]


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


def cross_entropy(logits_BK: Array, y_B: Labels, arithmetic: Exact) -> tuple[Array, Array]:
    """Loss of each row (..., B) and softmax (..., B, K); -log softmax[y], by the shifted log-sum-exp."""
    largest = logits_BK.max(axis=-1, keepdims=True)
    shifted = arithmetic.round(logits_BK - largest)
    exp_BK = arithmetic.round(np.exp(shifted))
    sum_B1 = arithmetic.round(exp_BK.sum(axis=-1, keepdims=True))
    chosen_B1 = np.take_along_axis(shifted, np.broadcast_to(y_B[:, None], (*shifted.shape[:-1], 1)), axis=-1)
    # a framework may add the largest logit back before it subtracts the chosen one
    loss_B1 = arithmetic.near(np.log(sum_B1) - chosen_B1, np.abs(largest) + np.abs(chosen_B1))
    return loss_B1[..., 0], arithmetic.round(exp_BK / sum_B1)


def loss_and_gradients(
    parameters: Parameters, x_BD: Array, y_B: Labels, activation: str, arithmetic: Exact
) -> tuple[Array, Parameters]:
    """Mean loss (...) over the B rows and its gradient by every parameter, of the parameter's shape."""
    layers, rows = len(parameters) // 2, len(y_B)
    outputs = forward(parameters, x_BD, activation, arithmetic)
    loss_B, softmax_BK = cross_entropy(outputs[f"linear{layers}"], y_B, arithmetic)
    # d loss / d logits = (softmax - one-hot) / B
    one_hot_BK = np.eye(softmax_BK.shape[-1])[y_B]
    slope = arithmetic.round((softmax_BK - one_hot_BK) / rows)
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
    return mean_loss(loss_B, arithmetic), gradients


def mean_loss(loss_B: Array, arithmetic: Exact) -> Array:
    """Mean over the last axis; as a dot product with 1/B it errs by the root mean square of its terms."""
    size = np.sqrt(np.mean(loss_B**2, axis=-1))
    return arithmetic.near(loss_B.mean(axis=-1)[..., None, None], size[..., None, None])[..., 0, 0]
