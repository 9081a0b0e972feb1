"""Layers of somebody's own loop, where no recipe says what they are: told by their parameters and
their outputs.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lockstep.diagnose.causes.alternatives import Alternative, Cause, choose, fitted
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.tensors import Tensors, residual
from lockstep.diagnose.compare import Difference
from lockstep.oracle.activations import activate
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe.activations import ACTIVATIONS

__all__ = ["layer_cause"]

ROWS = 2  # of a batch: enough to tell how a convolution pads
STRIDES = (1, 2, 3, 4)


def layer_cause(first: Difference, a: Side, b: Side) -> Cause | None:
    """How a layer of b is another than a's: its activation, the padding of a convolution, the eps
    of a norm, or how it moves its running statistics.

    Axes are (B, C, H, W) and kernels (out, in, h, w), or these are not recognised.
    """
    name = first.tensor
    if first.stage == "forward":
        mine = b.detail("forward").get(name)
        its = a.detail("forward").get(name)
        if mine is None or its is None or mine.shape != its.shape:
            return None
        cause = _other_kind(name, a, b, residual({name: its}, {name: mine}))
        if cause is not None:
            return cause
        alternatives = _other_norms(name, mine, its, a)
    elif first.stage == "parameters" and name in a.trace.header.get("buffers", []):
        mine = b.below(f"parameters/{b.update + 1}/").get(name)
        its = a.below(f"parameters/{a.update + 1}/").get(name)
        before = a.below(f"parameters/{a.update}/").get(name)
        if mine is None or its is None or before is None:
            return None
        alternatives = _other_statistics(name, mine, its, before)
    else:
        return None
    tolerance = max(a.tolerance, b.tolerance)
    cause = choose({name: mine}, {name: its}, alternatives, tolerance, "b")
    if cause is None:
        return None
    return Cause(cause.key, cause.text, cause.page, "", cause.residual, cause.null_residual)


class _Kind(NamedTuple):
    """What the kinds of a layer differ in; `tell` gives those that fit a side, in words and with
    their residuals.
    """

    key: str
    page: str
    verb: str
    tell: Callable[[Side, str], dict[str, float]]


def _other_kind(name: str, a: Side, b: Side, null: float) -> Cause | None:
    """The kind of a layer, where both sides' are recognised and no kind fits both."""
    for kind in (
        _Kind("other-activation", "", "is", _activations),
        _Kind("other-padding", "same-padding-with-stride", "pads", _paddings),
    ):
        kinds_a = kind.tell(a, name)
        kinds_b = kind.tell(b, name)
        if not kinds_a or not kinds_b or kinds_a.keys() & kinds_b.keys():
            continue
        word_a = next(iter(kinds_a))
        word_b, left = next(iter(kinds_b.items()))
        key, page = kind.key, kind.page
        if {word_a, word_b} == {"gelu", "gelu_tanh"}:
            key, page = "gelu-approximation", "gelu-is-approximate"
        text = f"b's {name} {kind.verb} {word_b}, a's {word_a}"
        return Cause(key, text, page, "", left, null)
    return None


def _activations(side: Side, name: str) -> dict[str, float]:
    """The activations, with their residuals, that make the output from that of another layer."""
    outputs = side.detail("forward")
    recorded = {name: outputs[name]}
    inputs = [z for other, z in outputs.items() if other != name and z.shape == outputs[name].shape]
    residuals: dict[str, float] = {}
    for kind, z in product(ACTIVATIONS, inputs):
        residuals[kind] = residual({name: activate(kind, z, Exact())}, recorded)
    return {kind: left for kind, left in residuals.items() if left <= side.tolerance}


def _paddings(side: Side, name: str) -> dict[str, float]:
    """The paddings, in words and with their residuals, with which a convolution gives the
    output.
    """
    parameters = side.below(f"parameters/{side.update}/", agreed=True)
    kernels = [
        array
        for other, array in parameters.items()
        if other.rpartition(".")[0] == name and array.ndim == 4
    ]
    bias = parameters.get(f"{name}.bias")
    outputs = side.detail("forward")
    arrays = outputs | side.detail("batch")
    inputs = [x for other, x in arrays.items() if other != name and x.ndim == 4]
    y = outputs[name][:ROWS]
    residuals: dict[str, float] = {}
    for kernel, x, stride in product(kernels, inputs, STRIDES):
        size = kernel.shape[-1]
        is_square = kernel.shape[2] == size
        if y.ndim != 4 or not is_square or (y.shape[1], x.shape[1]) != kernel.shape[:2]:
            continue
        for pads in _pads(size):
            sizes = tuple((length + sum(pads) - size) // stride + 1 for length in x.shape[2:])
            if sizes != y.shape[2:]:
                continue
            convolved = _convolved(x[:ROWS], kernel, bias, stride, pads)
            left = residual({name: convolved}, {name: y})
            if left <= side.tolerance:
                residuals[f"{pads[0]} before and {pads[1]} after"] = left
    return residuals


def _pads(size: int) -> list[tuple[int, int]]:
    """What a convolution may add before and after. The same on both sides comes first: with a
    stride what is added after may not be seen.
    """
    pads = [(before, after) for before in range(size) for after in range(size)]
    return sorted(pads, key=lambda pair: pair[0] != pair[1])


def _convolved(
    x: Array, kernel: Array, bias: Array | None, stride: int, pads: tuple[int, int]
) -> Array:
    """The convolution of an input (B, C, H, W), with zeros before and after both its axes."""
    size = kernel.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), pads, pads))
    windows = sliding_window_view(padded, (size, size), axis=(2, 3))
    y: Array = np.einsum("bchwij,ocij->bohw", windows[:, :, ::stride, ::stride], kernel)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _other_norms(name: str, mine: Array, its: Array, a: Side) -> Iterator[Alternative]:
    """The output of a norm with another eps."""
    parameters = a.below(f"parameters/{a.update}/", agreed=True)
    buffers = a.trace.header.get("buffers", [])
    vectors = {
        other.rpartition(".")[2]: array.ravel()
        for other, array in parameters.items()
        if other.rpartition(".")[0] == name and len(array) == 1 and other not in buffers
    }
    beta = vectors.pop("bias", np.zeros(1))
    gamma = next(iter(vectors.values()), np.ones(1))
    for axis in sorted({1, its.ndim - 1}):
        is_bare = len(gamma) == len(beta) == 1  # a norm without parameters
        if not is_bare and its.shape[axis] not in (len(gamma), len(beta)):
            continue
        if (gamma == 0).any():
            continue
        shape = [-1 if i == axis else 1 for i in range(its.ndim)]
        affine = gamma.reshape(shape), beta.reshape(shape)
        # a layer norm's statistics are of each row, a batch norm's of each channel
        of_row = (its.ndim - 1,)
        of_channel = tuple(i for i in range(its.ndim) if i != axis)
        for over in (of_row, of_channel):
            yield from _another_eps(name, mine, its, affine, over, a.tolerance)


def _another_eps(
    name: str,
    mine: Array,
    its: Array,
    affine: tuple[Array, Array],
    over: tuple[int, ...],
    tolerance: float,
) -> Iterator[Alternative]:
    """The output with any other eps. What is normalised has the mean square v / (v + eps), v being
    its variance, so that one output gives eps / v.
    """
    gamma, beta = affine
    normed = (its - beta) / gamma
    square = np.square(normed).mean(axis=over, keepdims=True)
    if np.abs(normed.mean(axis=over)).max() > tolerance or square.max() > 1 + tolerance:
        return

    def with_eps(factor: float) -> Tensors | None:
        inside = square + factor * (1 - square)
        return {name: normed / np.sqrt(inside) * gamma + beta} if (inside > 0).all() else None

    text = f"{{side}}'s {name} has an eps of {{value}} times a's"
    yield from fitted(
        "norm-eps", text, "layernorm-eps", with_eps, {name: mine}, 1.0, (1e-9, 1e9), log=True
    )


def _other_statistics(name: str, mine: Array, its: Array, before: Array) -> Iterator[Alternative]:
    """Running statistics that move by another share, or by the other variance: m v n / (n - 1) in
    place of m v.
    """

    def moved(share: float) -> Tensors:
        return {name: before + share * (its - before)}

    text = f"{{side}}'s {name} moves {{value}} times as far as a's: another momentum"
    recorded = {name: mine}
    yield from fitted(
        "norm-momentum", text, "batchnorm-momentum", moved, recorded, 1.0, (1e-6, 1e6)
    )
    moves = np.stack([(its - before).ravel(), before.ravel()], axis=1)
    (slope, rest), *_ = np.linalg.lstsq(moves, (mine - before).ravel(), rcond=None)
    n = _rows_behind(slope)
    if len(moves) < 4 or n < 1.5 or abs(n - round(n)) > 1e-2:
        return
    biased, other = ("b", "a") if slope < 1 else ("a", "b")
    text = f"{biased}'s {name} takes in variances over n, {other}'s over n - 1; n is {round(n)}"
    tensor = before + (moves @ np.array([slope, rest])).reshape(before.shape)
    yield Alternative("norm-variance", text, "batchnorm-running-variance", {name: tensor}, rank=2)


def _rows_behind(slope: float) -> float:
    """The n of a slope that is n / (n - 1) or (n - 1) / n; 0 for a slope of 1."""
    if slope < 1:
        return 1 / (1 - slope)
    return slope / (slope - 1) if slope > 1 else 0.0
