"""The updates of SGD, Adam and AdamW, as PyTorch documents them (torch 2.13, `torch.optim`)."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe import Optimizer

__all__ = ["Moments", "update_parameter"]

Moments = dict[str, Array]


def update_parameter(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """The parameter after one update; `moments` (empty before the first) is changed in place.

    Args:
        optimizer: its hyperparameters.
        lr: learning rate of this update.
        update: counted from 0.
        parameter: any shape, as `gradient`.
        gradient: of the loss, before weight decay.
        moments: what the optimizer remembers of this parameter.
        exact: the arithmetic.
    """
    decay = optimizer.weight_decay
    if decay and optimizer.name != "adamw":
        gradient = exact.round(gradient + exact.constant("weight_decay", decay) * parameter)
    if optimizer.name == "sgd":
        direction = _sgd(optimizer, gradient, moments, exact)
    else:
        direction = _adam(optimizer, update, gradient, moments, exact)
    if decay and optimizer.name == "adamw":
        parameter = exact.round(parameter * exact.constant("decay", 1 - lr * decay))
    return exact.round(parameter - exact.round(lr * direction))


def _sgd(optimizer: Optimizer, gradient: Array, moments: Moments, exact: Exact) -> Array:
    if optimizer.momentum == 0:
        return gradient
    momentum = exact.constant("momentum", optimizer.momentum)
    previous = moments.get("momentum", np.zeros_like(gradient))
    moments["momentum"] = exact.round(momentum * previous + gradient)
    if optimizer.nesterov:
        return exact.round(gradient + momentum * moments["momentum"])
    return moments["momentum"]


def _adam(optimizer: Optimizer, update: int, gradient: Array, moments: Moments, exact: Exact) -> Array:
    """Kingma & Ba, arXiv:1412.6980, algorithm 1; eps outside the root."""
    beta1, beta2 = exact.constant("beta1", optimizer.beta1), exact.constant("beta2", optimizer.beta2)
    first = moments.get("first", np.zeros_like(gradient))
    second = moments.get("second", np.zeros_like(gradient))
    share1, share2 = exact.constant("1 - beta1", 1 - optimizer.beta1), exact.constant("1 - beta2", 1 - optimizer.beta2)
    first = moments["first"] = exact.round(beta1 * first + share1 * gradient)
    second = moments["second"] = exact.round(beta2 * second + share2 * gradient**2)
    # 1 - beta^t magnifies by cancellation what beta was rounded by
    corrected_first = exact.round(first / (1 - exact.constant("beta1 power", beta1 ** (update + 1))))
    corrected_second = exact.round(second / (1 - exact.constant("beta2 power", beta2 ** (update + 1))))
    return exact.round(corrected_first / (np.sqrt(corrected_second) + optimizer.eps))
