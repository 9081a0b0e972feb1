"""Adagrad, RMSprop, Adadelta, Rprop, Adafactor and Muon by hand, as their papers, PyTorch 2.13 (`torch.optim`) and
Optax 0.2.8 document them.

Every rule takes the gradient with L2 decay already in it; decoupled decay is the rule's own.
"""

from typing import Any

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact, Moments, Rule
from lockstep.recipe import Optimizer

__all__ = ["NEWTON_SCHULZ", "RULES", "WEIGHT_RULES"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic a X + (b A + c A A) X with A = X X^T (Jordan, Muon, 2024), in both libraries."""


def _adagrad(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Duchi, Hazan & Singer, JMLR 12 (2011): the diagonal form."""
    start = exact.constant("initial_accumulator", optimizer.initial_accumulator)
    before = moments.get("second", np.zeros_like(gradient) + start)
    moments["second"] = exact.round(before + exact.round(gradient**2))
    slowed = exact.round(1 + update * np.asarray(exact.constant("lr_decay", optimizer.lr_decay)))
    rate = exact.round(lr / slowed)
    direction = exact.round(gradient / _root(optimizer, moments["second"], exact))
    return exact.round(parameter - exact.round(rate * direction))


def _rmsprop(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Tieleman & Hinton, lecture 6.5 (2012); centered: Graves, arXiv:1308.0850, equations 38 to 45."""
    second = moments["second"] = _average("decay", optimizer.decay, moments.get("second"), gradient**2, exact)
    if optimizer.centered:
        first = moments["first"] = _average("decay", optimizer.decay, moments.get("first"), gradient, exact)
        second = exact.near(second - first**2, second)
    step = exact.round(gradient / _root(optimizer, second, exact))
    if optimizer.rate_in_momentum:
        step = exact.round(lr * step)
    if optimizer.momentum:
        momentum = exact.constant("momentum", optimizer.momentum)
        step = moments["momentum"] = exact.round(momentum * moments.get("momentum", np.zeros_like(step)) + step)
    if not optimizer.rate_in_momentum:
        step = exact.round(lr * step)
    return exact.round(parameter - step)


def _adadelta(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Zeiler, arXiv:1212.5701, algorithm 1, with a learning rate."""
    eps, before = optimizer.eps, moments.get("update_second", np.zeros_like(gradient))
    second = moments["second"] = _average("decay", optimizer.decay, moments.get("second"), gradient**2, exact)
    ratio = exact.round(np.sqrt(exact.round(before + eps)) / np.sqrt(exact.round(second + eps)))
    direction = exact.round(ratio * gradient)
    moments["update_second"] = _average("decay", optimizer.decay, before, direction**2, exact)
    return exact.round(parameter - exact.round(lr * direction))


def _rprop(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Riedmiller & Braun, ICNN 1993, without taking a step back: a gradient that turned counts as 0, now and next."""
    sign = exact.sign(gradient)
    agreement = sign * np.sign(moments.get("previous", np.zeros_like(gradient)))
    shrink, grow = exact.constant("shrink", optimizer.shrink), exact.constant("grow", optimizer.grow)
    factor = np.where(agreement > 0, grow, np.where(agreement < 0, shrink, 1.0))
    size = exact.round(moments.get("step_size", np.full_like(gradient, lr)) * factor)
    least, most = exact.constant("step_min", optimizer.step_min), exact.constant("step_max", optimizer.step_max)
    moments["step_size"] = np.clip(size, least, most)
    sign = np.where(agreement < 0, 0.0, sign)
    # the sign as it was drawn is the one that the next update meets
    moments["previous"] = sign * np.abs(gradient)
    return exact.round(parameter - sign * moments["step_size"])


def _adafactor(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """As `_adafactor_weight`, of a bias or a normalisation: the second moment is whole."""
    square, share = _adafactor_square(optimizer, gradient, exact), _adafactor_share(optimizer, update, exact)
    second = moments["second"] = _mix(moments.get("second"), square, share, exact)
    return _adafactor_step(optimizer, lr, update, parameter, gradient, second, exact)


def _adafactor_weight(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Shazeer & Stern, arXiv:1804.04235, algorithm 4 for a weight of enough rows and columns; the details are the
    libraries' (`torch.optim.Adafactor`, `optax.adafactor`)."""
    if min(gradient.shape[-2:]) < optimizer.min_factored:
        return _adafactor(optimizer, lr, update, parameter, gradient, moments, exact)
    square, share = _adafactor_square(optimizer, gradient, exact), _adafactor_share(optimizer, update, exact)
    row = moments["row"] = _mix(moments.get("row"), exact.round(square.mean(-1, keepdims=True)), share, exact)
    column = moments["column"] = _mix(moments.get("column"), exact.round(square.mean(-2, keepdims=True)), share, exact)
    # the mean of the rows' and that of the columns' are one number, to rounding
    mean = exact.round(row.mean(-2, keepdims=True))
    if not optimizer.eps_in_root:
        mean = np.maximum(mean, optimizer.eps)
    second = exact.round(exact.round(row / mean) * column)
    return _adafactor_step(optimizer, lr, update, parameter, gradient, second, exact)


def _adafactor_square(optimizer: Optimizer, gradient: Array, exact: Exact) -> Array:
    return exact.round(gradient**2 + (optimizer.eps if optimizer.eps_in_root else 0.0))


def _adafactor_share(optimizer: Optimizer, update: int, exact: Exact) -> Any:
    """What the newest square weighs: (t + 1)^-decay_power."""
    share = np.asarray((update + 1.0) ** -optimizer.decay_power)
    # the rounding of the power counts log(t + 1) times
    return exact.near(share, share * (1 + optimizer.decay_power * np.log(update + 1.0)))


def _adafactor_step(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, second: Array, exact: Exact
) -> Array:
    if not optimizer.eps_in_root:
        second = np.maximum(second, optimizer.eps**2)
    direction = exact.round(gradient / exact.round(np.sqrt(second)))
    threshold = exact.constant("clip_threshold", optimizer.clip_threshold)
    direction = exact.round(direction / np.maximum(exact.round(_rms(direction, exact) / threshold), 1.0))
    rate = exact.round(np.asarray(min(lr, (update + 1) ** -0.5))) if optimizer.rate_cap else lr
    scale = np.maximum(_rms(parameter, exact), exact.constant("eps_scale", optimizer.eps_scale))
    step = exact.round(exact.round(scale * rate) * direction)
    return exact.round(_decayed(optimizer, lr, parameter, exact) - step)


def _muon(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """All but the weights of linear layers: AdamW, which may look ahead as `optax.adamw(nesterov=True)` does."""
    moments["first"], ahead = _ahead(
        "beta1", optimizer.beta1, optimizer.nesterov_rest, True, update, gradient, moments.get("first"), exact
    )
    second = moments["second"] = _average("beta2", optimizer.beta2, moments.get("second"), gradient**2, exact)
    second = exact.round(second / _bias("beta2", optimizer.beta2, update, exact))
    step = exact.round(lr * exact.round(ahead / (np.sqrt(second) + optimizer.eps)))
    return exact.round(_decayed(optimizer, lr, parameter, exact) - step)


def _muon_weight(
    optimizer: Optimizer, lr: float, update: int, parameter: Array, gradient: Array, moments: Moments, exact: Exact
) -> Array:
    """Jordan, Muon (2024): the momentum, its singular values driven towards 1 by Newton-Schulz iterations.

    The scale of a step is "original" or that of Liu et al., arXiv:2502.16982, to match the size of AdamW's.
    """
    corrects = optimizer.momentum_correction
    moments["momentum"], ahead = _ahead(
        "momentum",
        optimizer.momentum,
        optimizer.nesterov,
        corrects,
        update,
        gradient,
        moments.get("momentum"),
        exact,
    )
    norm = exact.round(np.sqrt((ahead**2).sum(axis=(-2, -1), keepdims=True)))
    norm = norm + optimizer.eps_norm if optimizer.eps_norm_added else np.maximum(norm, optimizer.eps_norm)
    x = exact.round(ahead / norm)
    tall = x.shape[-2] > x.shape[-1]
    x = x.swapaxes(-1, -2) if tall else x
    a, b, c = (exact.constant(f"newton_schulz {i}", value) for i, value in enumerate(NEWTON_SCHULZ))
    for _ in range(optimizer.orthogonalisations):
        gram = exact.dot(x, x.swapaxes(-1, -2))
        product = exact.round(c * exact.dot(gram, gram))
        polynomial = exact.near(b * gram + product, np.maximum(np.abs(b * gram), np.abs(product)))
        product = exact.dot(polynomial, x)
        x = exact.near(a * x + product, np.maximum(np.abs(a * x), np.abs(product)))
    x = x.swapaxes(-1, -2) if tall else x
    inputs, outputs = x.shape[-2:]
    scale = np.sqrt(max(1.0, outputs / inputs)) if optimizer.adjust == "original" else 0.2 * np.sqrt(max(x.shape[-2:]))
    step = exact.round(lr * exact.round(scale * x))
    return exact.round(_decayed(optimizer, lr, parameter, exact) - step)


def _average(name: str, beta: float, before: Array | None, value: Array, exact: Exact) -> Array:
    """beta before + (1 - beta) value; before the first update it is 0."""
    before = np.zeros_like(value) if before is None else before
    share = exact.constant(f"1 - {name}", 1 - beta)
    return exact.round(exact.constant(name, beta) * before + share * value)


def _bias(name: str, beta: float, update: int, exact: Exact) -> Any:
    """1 - beta^(update + 1): it magnifies by cancellation what beta was rounded by."""
    power = exact.constant(name, beta) ** (update + 1)
    return 1 - exact.constant(f"{name} power", power)


def _ahead(
    name: str,
    beta: float,
    looks: bool,
    corrects: bool,
    update: int,
    gradient: Array,
    before: Array | None,
    exact: Exact,
) -> tuple[Array, Array]:
    """The moving average of the gradient, and what is stepped along: it, or with a look ahead its next value for the
    same gradient; either may be corrected for its start at 0."""
    after = _average(name, beta, before, gradient, exact)
    ahead = after
    if corrects:
        gradient = exact.round(gradient / _bias(name, beta, update, exact))
        ahead = exact.round(after / _bias(name, beta, update + looks, exact))
    return after, _average(name, beta, ahead, gradient, exact) if looks else ahead


def _mix(before: Array | None, value: Array, share: Any, exact: Exact) -> Array:
    """(1 - share) before + share value; at the first update the share is 1."""
    return exact.round(value) if before is None else exact.round((1 - share) * before + share * value)


def _root(optimizer: Optimizer, second: Array, exact: Exact) -> Array:
    """The root of a second moment, kept above 0 by eps."""
    if optimizer.eps_in_root:
        return exact.round(np.sqrt(exact.round(second + optimizer.eps)))
    return exact.round(exact.round(np.sqrt(second)) + optimizer.eps)


def _rms(tensor: Array, exact: Exact) -> Array:
    """Root mean square of a parameter's elements."""
    return exact.round(np.sqrt((tensor**2).mean(axis=(-2, -1), keepdims=True)))


def _decayed(optimizer: Optimizer, lr: float, parameter: Array, exact: Exact) -> Array:
    """The parameter less its decoupled weight decay."""
    if not optimizer.weight_decay:
        return parameter
    return exact.round(parameter * exact.constant("decay", 1 - lr * optimizer.weight_decay))


RULES: dict[str, Rule] = {
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "rprop": _rprop,
    "adafactor": _adafactor,
    "muon": _muon,
}
WEIGHT_RULES: dict[str, Rule] = {"adafactor": _adafactor_weight, "muon": _muon_weight}
"""Rules for the weights of linear layers, where they have one of their own."""
