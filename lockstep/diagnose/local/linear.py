"""How a linear layer multiplies its product and adds its bias, from its own input and output.

The output is s (x W) + c b and rounding; a layer as everybody writes it has s = c = 1. Columns that
share the rounding of one kernel err alike, so that the columns' own estimates give the error.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.local.layer_calls import LayerCall
from lockstep.diagnose.local.measurement import Measurement
from lockstep.oracle.arithmetic import Array

__all__ = ["LinearFit", "measure_linear"]

STAYS = 8.0
"""Unit roundoffs of the coarsest dtype that the output may be off by, relative to its size."""
FEWEST = 4
"""Columns, and rows, that tell."""


class LinearFit(NamedTuple):
    """What a linear layer does to its product and its bias; `bias` is None where that is 0."""

    scale: Measurement
    bias: Measurement | None


def measure_linear(call: LayerCall, update: int) -> LinearFit | None:
    """The factors of a linear layer; None where it is none of any input."""
    y = call.output.reshape(-1, call.output.shape[-1]) if call.output.ndim > 1 else None
    if y is None or min(y.shape) < FEWEST or not np.isfinite(y).all():
        return None
    bias = next((b for role, b in call.parameters.items() if b.shape == y.shape[1:]), None)
    best: tuple[float, Array] | None = None
    for product in _products(call, len(y), y.shape[1]):
        factors, residual = _fit(product, y, bias)
        if best is None or residual < best[0]:
            best = residual, product
    if best is None or best[0] > STAYS * max(call.unit, call.low):
        return None
    estimates = _by_columns(best[1], y, bias)
    factors, _ = _fit(best[1], y, bias)
    names = ("scale of the product", "share of the bias")
    measured = [
        Measurement("forward", call.name, update, name, float(factor), float(error))
        for name, factor, error in zip(names, factors, estimates)
    ]
    return LinearFit(measured[0], measured[1] if len(measured) > 1 else None)


def _products(call: LayerCall, rows: int, columns: int) -> Iterator[Array]:
    """The products of inputs and kernels that have the output's shape."""
    kernels = [array for array in call.parameters.values() if array.ndim == 2]
    for x in call.inputs.values():
        if x.ndim < 2 or x.size // x.shape[-1] != rows or not np.isfinite(x).all():
            continue
        flat = x.reshape(rows, -1)
        for kernel in kernels:
            for turned in (kernel, kernel.T):
                if turned.shape == (flat.shape[1], columns):
                    yield flat @ turned


def _fit(product: Array, y: Array, bias: Array | None) -> tuple[Array, float]:
    """The factors, and how far the output is off from them, relative."""
    columns = [product.ravel()]
    if bias is not None and bias.any():
        columns.append(np.broadcast_to(bias, y.shape).ravel())
    matrix = np.stack(columns, axis=1)
    factors, *_ = np.linalg.lstsq(matrix, y.ravel(), rcond=None)
    off = np.sqrt(np.square(matrix @ factors - y.ravel()).mean())
    size = np.sqrt(np.square(y).mean())
    return factors.astype(np.float64), float(off / size) if size else np.inf


def _by_columns(product: Array, y: Array, bias: Array | None) -> list[float]:
    """The errors of the factors, by what single columns give."""
    factors, _ = _fit(product, y, bias)
    off = y - factors[0] * product
    squares = np.square(product).sum(axis=0)
    errors = []
    if len(factors) > 1 and bias is not None:
        off = off - factors[1] * bias
    gains = (off * product).sum(axis=0)
    errors.append(float(np.sqrt(np.square(gains).sum()) / max(squares.sum(), 1e-300)))
    if len(factors) > 1 and bias is not None:
        shifts = off.mean(axis=0) * bias
        errors.append(float(np.sqrt(np.square(shifts).sum()) / np.square(bias).sum()))
    return errors
