"""What the rules of several optimizers share: moving averages, bias corrections, roots, norms and
decay.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Constant, Exact, Moments

__all__ = ["average", "bias", "decayed", "norm", "root", "root_mean_square", "two_moments"]


def average(name: str, beta: float, before: Array | None, value: Array, exact: Exact) -> Array:
    """beta before + (1 - beta) value; before the first update it is 0."""
    before = np.zeros_like(value) if before is None else before
    share = exact.constant(f"1 - {name}", 1 - beta)
    return exact.round(exact.constant(name, beta) * before + share * value)


def bias(name: str, beta: float, update: int, exact: Exact) -> Constant:
    """1 - beta^(update + 1). Its cancellation magnifies the rounding of beta."""
    power = exact.constant(name, beta) ** (update + 1)
    return 1 - exact.constant(f"{name} power", power)


def two_moments(
    beta1: float, beta2: float, gradient: Array, moments: Moments, exact: Exact
) -> tuple[Array, Array]:
    """Moving averages of the gradient and of its square."""
    first = average("beta1", beta1, moments.get("first"), gradient, exact)
    second = average("beta2", beta2, moments.get("second"), gradient**2, exact)
    return first, second


def root(eps: float, in_root: bool, second: Array, exact: Exact) -> Array:
    """The root of a second moment, kept above 0 by eps, added inside or outside."""
    if in_root:
        return exact.round(np.sqrt(exact.round(second + eps)))
    return exact.round(exact.round(np.sqrt(second)) + eps)


def norm(tensor: Array, exact: Exact) -> Array:
    """The 2-norm of a parameter's elements (..., 1, 1)."""
    total = np.square(tensor).sum(axis=(-2, -1), keepdims=True)
    return exact.round(np.sqrt(exact.squares(total, tensor.shape[-2] * tensor.shape[-1])))


def root_mean_square(tensor: Array, exact: Exact) -> Array:
    """The root mean square of a parameter's elements (..., 1, 1)."""
    return exact.round(np.sqrt((tensor**2).mean(axis=(-2, -1), keepdims=True)))


def decayed(weight_decay: float, lr: float, parameter: Array, exact: Exact) -> Array:
    """The parameter times 1 - lr weight_decay."""
    if not weight_decay:
        return parameter
    return exact.round(parameter * exact.constant("decay", 1 - lr * weight_decay))
