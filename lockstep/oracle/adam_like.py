"""SGD, Adam and their kin by hand, as their papers and PyTorch 2.13 (`torch.optim`) document them.

Every rule takes the gradient with L2 decay already in it; decoupled decay is the rule's own.
"""

from typing import Any

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments, Rule
from lockstep.recipe import Optimizer

__all__ = ["RULES"]


def _sgd(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    direction = gradient
    if optimizer.momentum:
        momentum = exact.constant("momentum", optimizer.momentum)
        if "momentum" not in moments:  # the first gradient enters whole
            moments["momentum"] = gradient
        else:
            share = exact.constant("1 - dampening", 1 - optimizer.dampening) if optimizer.dampening else 1.0
            moments["momentum"] = exact.round(momentum * moments["momentum"] + share * gradient)
        direction = moments["momentum"]
        if optimizer.nesterov:
            direction = exact.round(gradient + momentum * direction)
    return exact.round(parameter - exact.round(lr * direction))


def _adam(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Kingma & Ba, arXiv:1412.6980, algorithm 1; eps outside the root."""
    first, second = _two_moments(optimizer, gradient, moments, exact)
    first = exact.round(first / _bias(optimizer.beta1, "beta1", update, exact))
    second = exact.round(second / _bias(optimizer.beta2, "beta2", update, exact))
    direction = exact.round(first / (np.sqrt(second) + optimizer.eps))
    if optimizer.name == "adamw" and optimizer.weight_decay:
        parameter = exact.round(parameter * exact.constant("decay", 1 - lr * optimizer.weight_decay))
    return exact.round(parameter - exact.round(lr * direction))


def _two_moments(optimizer: Optimizer, gradient: Array, moments: Moments, exact: Exact) -> tuple[Array, Array]:
    """Moving averages of the gradient and of its square."""
    moments["first"] = _average("beta1", optimizer.beta1, moments.get("first"), gradient, exact)
    moments["second"] = _average("beta2", optimizer.beta2, moments.get("second"), gradient**2, exact)
    return moments["first"], moments["second"]


def _average(name: str, beta: float, before: Array | None, value: Array, exact: Exact) -> Array:
    """beta before + (1 - beta) value; before the first update it is 0."""
    before = np.zeros_like(value) if before is None else before
    share = exact.constant(f"1 - {name}", 1 - beta)
    return exact.round(exact.constant(name, beta) * before + share * value)


def _bias(beta: float, name: str, update: int, exact: Exact) -> Any:
    """1 - beta^(update + 1): it magnifies by cancellation what beta was rounded by."""
    power = exact.constant(name, beta) ** (update + 1)
    return 1 - exact.constant(f"{name} power", power)


RULES: dict[str, Rule] = {"sgd": _sgd, "adam": _adam, "adamw": _adam}
