"""Layers of somebody's own loop, where no recipe says what they are: told by their parameters and
their outputs.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lockstep.diagnose.causes.judge import Alternative, Cause, Tensors, choose, fitted, residual
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.compare import Difference
from lockstep.oracle.activations import activate
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe.activations import ACTIVATIONS

__all__ = ["layer_cause"]

ROWS = 2  # of a batch: enough to tell how a convolution pads
STRIDES = (1, 2, 3, 4)


def layer_cause(first: Difference, a: Side, b: Side) -> Cause | None:
    """How a layer of b is another than a's: its activation, the padding of a convolution, the eps
    of a norm, or how it moves its running statistics. Axes are (B, C, H, W) and kernels (out, in,
    h, w), or these are not recognised."""
    name = first.tensor
    if first.stage == "forward":
        mine, its = (side.detail("forward").get(name) for side in (b, a))
        if mine is None or its is None or mine.shape != its.shape:
            return None
        null = residual({name: its}, {name: mine})
        for key, page, verb, tell in (
            ("other-activation", "", "is", _activations),
            ("other-padding", "same-padding-with-stride", "pads", _paddings),
        ):
            told = [tell(side, name) for side in (a, b)]
            if all(told) and not told[0].keys() & told[1].keys():
                (here, _), (there, left) = (next(iter(found.items())) for found in told)
                if {here, there} == {"gelu", "gelu_tanh"}:
                    key, page = "gelu-approximation", "gelu-is-approximate"
                return Cause(key, f"b's {name} {verb} {there}, a's {here}", page, "", left, null)
        alternatives = _norms(name, mine, its, a)
    elif first.stage == "parameters" and name in a.trace.header.get("buffers", []):
        mine, its = (side.below(f"parameters/{side.update + 1}/").get(name) for side in (b, a))
        before = a.below(f"parameters/{a.update}/").get(name)
        if mine is None or its is None or before is None:
            return None
        alternatives = _statistics(name, mine, its, before)
    else:
        return None
    found = choose({name: mine}, {name: its}, alternatives, max(a.tolerance, b.tolerance), "b")
    return found and Cause(
        found.key, found.text, found.page, "", found.residual, found.null_residual
    )


def _activations(side: Side, name: str) -> dict[str, float]:
    """The activations, with their residuals, that make the output from that of another layer."""
    outputs = side.detail("forward")
    inputs = [z for other, z in outputs.items() if other != name and z.shape == outputs[name].shape]
    left = {
        kind: residual({name: activate(kind, z, Exact())}, {name: outputs[name]})
        for kind, z in product(ACTIVATIONS, inputs)
    }
    return {kind: found for kind, found in left.items() if found <= side.tolerance}


def _paddings(side: Side, name: str) -> dict[str, float]:
    """The paddings, in words and with their residuals, with which a convolution gives the
    output.
    """
    parameters = side.below(f"parameters/{side.update}/", agreed=True)
    kernels = [
        w for other, w in parameters.items() if other.rpartition(".")[0] == name and w.ndim == 4
    ]
    biases = [v for other, v in parameters.items() if other == f"{name}.bias"]
    outputs = side.detail("forward")
    inputs = [
        x for other, x in (outputs | side.detail("batch")).items() if other != name and x.ndim == 4
    ]
    found: dict[str, float] = {}
    y = outputs[name][:ROWS]
    for w, x, stride in product(kernels, inputs, STRIDES):
        size = w.shape[-1]
        if (
            y.ndim != 4
            or w.shape[2] != size
            or x.shape[1] != w.shape[1]
            or y.shape[1] != w.shape[0]
        ):
            continue
        # the same on both sides first: with a stride what is added after may not be seen
        for before, after in sorted(
            product(range(size), repeat=2), key=lambda pads: pads[0] != pads[1]
        ):
            padded = np.pad(x[:ROWS], ((0, 0), (0, 0), (before, after), (before, after)))
            if any((padded.shape[axis] - size) // stride + 1 != y.shape[axis] for axis in (2, 3)):
                continue
            windows = sliding_window_view(padded, (size, size), axis=(2, 3))[
                :, :, ::stride, ::stride
            ]
            made = np.einsum("bchwij,ocij->bohw", windows, w)
            made = made + biases[0].reshape(1, -1, 1, 1) if biases else made
            left = residual({name: made}, {name: y})
            if left <= side.tolerance:
                found[f"{before} before and {after} after"] = left
    return found


def _norms(name: str, mine: Array, its: Array, a: Side) -> Iterator[Alternative]:
    """The output of a norm with another eps."""
    parameters = a.below(f"parameters/{a.update}/", agreed=True)
    buffers = a.trace.header.get("buffers", [])
    vectors = {
        other.rpartition(".")[2]: v.ravel()
        for other, v in parameters.items()
        if other.rpartition(".")[0] == name and len(v) == 1 and other not in buffers
    }
    beta = vectors.pop("bias", np.zeros(1))
    gamma = next(iter(vectors.values()), np.ones(1))
    for axis in sorted({1, its.ndim - 1}):
        if its.shape[axis] not in (len(gamma), len(beta)) or (gamma == 0).any():
            continue
        shape = [-1 if i == axis else 1 for i in range(its.ndim)]
        affine = gamma.reshape(shape), beta.reshape(shape)
        # a layer norm's statistics are of each row, a batch norm's of each channel
        for over in ((its.ndim - 1,), tuple(i for i in range(its.ndim) if i != axis)):
            yield from _another_eps(name, mine, its, affine, over, a.tolerance)


def _another_eps(
    name: str,
    mine: Array,
    its: Array,
    affine: tuple[Array, Array],
    over: tuple[int, ...],
    tolerance: float,
) -> Iterator[Alternative]:
    """What is normalised has the mean square v / (v + eps), v being its variance: one output gives
    eps / v, and so the output with any other eps."""
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


def _statistics(name: str, mine: Array, its: Array, before: Array) -> Iterator[Alternative]:
    """Running statistics that move by another share, or by the other variance: m v n / (n - 1) in
    place of m v.
    """
    text = f"{{side}}'s {name} moves {{value}} times as far as a's: another momentum"
    yield from fitted(
        "norm-momentum", text, "batchnorm-momentum",
        lambda share: {name: before + share * (its - before)}, {name: mine}, 1.0, (1e-6, 1e6),
    )  # fmt: skip
    moves = np.stack([(its - before).ravel(), before.ravel()], axis=1)
    (slope, rest), *_ = np.linalg.lstsq(moves, (mine - before).ravel(), rcond=None)
    n = 1 / (1 - slope) if slope < 1 else slope / (slope - 1) if slope > 1 else 0.0
    if len(moves) < 4 or n < 1.5 or abs(n - round(n)) > 1e-2:
        return
    biased, other = ("b", "a") if slope < 1 else ("a", "b")
    text = f"{biased}'s {name} takes in variances over n, {other}'s over n - 1; n is {round(n)}"
    made = before + (moves @ np.array([slope, rest])).reshape(before.shape)
    yield Alternative("norm-variance", text, "batchnorm-running-variance", {name: made}, rank=2)
