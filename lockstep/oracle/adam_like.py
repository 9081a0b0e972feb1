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
    """Momentum as in Sutskever et al. (ICML 2013), with the learning rate outside it, as in PyTorch."""
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
    """Kingma & Ba, arXiv:1412.6980, algorithm 1; AMSGrad: Reddi, Kale & Kumar, arXiv:1904.09237, algorithm 2;
    decoupled decay: Loshchilov & Hutter, arXiv:1711.05101, algorithm 2."""
    first, second = _two_moments(optimizer, gradient, moments, exact)
    first = exact.round(first / _bias("beta1", optimizer.beta1, update, exact))
    bias2 = _bias("beta2", optimizer.beta2, update, exact)
    if optimizer.amsgrad == "raw":
        second = moments["largest_second"] = np.maximum(moments.get("largest_second", second), second)
    second = exact.round(second / bias2)
    if optimizer.amsgrad == "corrected":
        second = moments["largest_second"] = np.maximum(moments.get("largest_second", second), second)
    inside, outside = (optimizer.eps, 0.0) if optimizer.eps_in_root else (0.0, optimizer.eps)
    root = np.sqrt(second + inside) + outside
    return _step(optimizer, lr, parameter, exact.round(first / root), exact)


def _nadam(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Dozat (ICLR workshop 2016), with the product of all beta1 so far in place of a power, as in PyTorch."""
    first, second = _two_moments(optimizer, gradient, moments, exact)
    now, following = (exact.constant(f"momentum {i}", _ramped(optimizer, update + 1 + i)) for i in range(2))
    before = moments.get("momentum_product", np.ones(())) if optimizer.momentum_ramp else np.asarray(now**update)
    product = exact.round(np.atleast_2d(before) * now)
    if optimizer.momentum_ramp:  # else a power, which nobody need remember
        moments["momentum_product"] = product if product.ndim > 2 else product[0, 0]  # a number, or one a member
    ahead = exact.round(following / (1 - product * following) * first)
    here = exact.round((1 - now) / (1 - product) * gradient)
    root = np.sqrt(exact.round(second / _bias("beta2", optimizer.beta2, update, exact))) + optimizer.eps
    return _step(
        optimizer, lr, parameter, exact.near((ahead + here) / root, (np.abs(ahead) + np.abs(here)) / root), exact
    )


def _ramped(optimizer: Optimizer, t: int) -> float:
    """beta1 at update t, counted from 1."""
    ramp = 1 - 0.5 * 0.96 ** (t * optimizer.momentum_decay) if optimizer.momentum_ramp else 1.0
    return optimizer.beta1 * ramp


def _radam(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Liu et al., arXiv:1908.03265, algorithm 2, rectified from rho > 5 on."""
    t, beta2 = update + 1, optimizer.beta2
    first, second = _two_moments(optimizer, gradient, moments, exact)
    first = exact.round(first / _bias("beta1", optimizer.beta1, update, exact))
    longest = 2 / (1 - beta2) - 1
    rho = longest - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= 5:
        return _step(optimizer, lr, parameter, first, exact)
    bias2 = _bias("beta2", beta2, update, exact)
    # rho is a small difference of numbers as large as `longest`
    length = exact.near(np.full((1, 1), rho), longest)
    shrunk = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    if optimizer.eps_corrected:
        root = np.sqrt(exact.round(second / bias2)) + optimizer.eps
    else:
        root = (np.sqrt(second) + optimizer.eps) / np.sqrt(bias2)
    return _step(optimizer, lr, parameter, exact.round(np.sqrt(shrunk) * first / root), exact)


def _adamax(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Kingma & Ba, arXiv:1412.6980, algorithm 2, with eps added to |gradient|, as in PyTorch."""
    first = moments["first"] = _average("beta1", optimizer.beta1, moments.get("first"), gradient, exact)
    before = moments.get("infinity", np.zeros_like(gradient))
    kept = exact.round(exact.constant("beta2", optimizer.beta2) * before)
    moments["infinity"] = np.maximum(kept, exact.round(np.abs(gradient) + optimizer.eps))
    corrected = exact.round(first / _bias("beta1", optimizer.beta1, update, exact))
    return _step(optimizer, lr, parameter, exact.round(corrected / moments["infinity"]), exact)


def _lamb(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """You et al., arXiv:1904.00962, algorithm 2, with phi the identity; a tensor or step of norm 0 has ratio 1."""
    first, second = _two_moments(optimizer, gradient, moments, exact)
    first = exact.round(first / _bias("beta1", optimizer.beta1, update, exact))
    second = exact.round(second / _bias("beta2", optimizer.beta2, update, exact))
    direction = exact.round(first / (np.sqrt(second) + optimizer.eps))
    direction = exact.round(direction + optimizer.weight_decay * parameter)
    long, wide = _norm(parameter, exact), _norm(direction, exact)
    usable = (long > 0) & (wide > 0)
    ratio = np.where(usable, long / np.where(usable, wide, 1.0), 1.0)
    return exact.round(parameter - exact.round(lr * exact.round(ratio * direction)))


def _norm(tensor: Array, exact: Exact) -> Array:
    total = np.square(tensor).sum(axis=(-2, -1), keepdims=True)
    return exact.round(np.sqrt(exact.squares(total, tensor.shape[-2] * tensor.shape[-1])))


def _lion(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Chen et al., arXiv:2302.06675, program 1."""
    before = moments.get("first", np.zeros_like(gradient))
    mixed = _average("beta1", optimizer.beta1, before, gradient, exact)
    moments["first"] = _average("beta2", optimizer.beta2, before, gradient, exact)
    return _step(optimizer, lr, parameter, exact.sign(mixed), exact)


def _step(optimizer: Optimizer, lr: float, parameter: Array, direction: Array, exact: Exact) -> Array:
    """The parameter less lr direction, and decayed where the decay is decoupled."""
    if optimizer.name in ("adamw", "nadamw", "lion") and optimizer.weight_decay:
        if optimizer.decay_form == "factor":
            parameter = exact.round(parameter * exact.constant("decay", 1 - lr * optimizer.weight_decay))
        else:
            direction = exact.round(direction + exact.round(optimizer.weight_decay * parameter))
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


def _bias(name: str, beta: float, update: int, exact: Exact) -> Any:
    """1 - beta^(update + 1): it magnifies by cancellation what beta was rounded by."""
    power = exact.constant(name, beta) ** (update + 1)
    return 1 - exact.constant(f"{name} power", power)


RULES: dict[str, Rule] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
    "nadam": _nadam,
    "nadamw": _nadam,
    "radam": _radam,
    "adamax": _adamax,
    "lamb": _lamb,
    "lion": _lion,
}
"""Optimizer -> (optimizer, lr, update, parameter, gradient, moments, exact) -> the parameter after the update."""
