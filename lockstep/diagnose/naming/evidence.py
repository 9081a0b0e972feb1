"""What the traces of a pair say of it before outputs are paired: whether it parts at all, and how
images are laid out.
"""

from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.naming.layouts import Layout
from lockstep.diagnose.naming.name_map import NameMap
from lockstep.diagnose.naming.words import read_name
from lockstep.records.trace import Trace

__all__ = ["Axes", "least_difference", "loss_parts", "orders_of_kernels"]

Axes = tuple[int, ...]

ROUNDINGS = 64
"""Units of rounding by which outputs of a right pair may differ, relative to the largest value."""
MOST_ROUNDING = 0.05
COARSE = {"bfloat16": 2.0**-8, "float8": 2.0**-3, "float4": 2.0**-1}
"""Formats that NumPy does not have -> unit of rounding."""


def least_difference(a: Trace, b: Trace) -> float:
    """The relative difference from which on a first forward pass parts by more than rounding."""
    dtypes = {*a.header["dtypes"], *b.header["dtypes"]} or {a.header["dtype"]}
    return min(ROUNDINGS * max(map(_unit, dtypes)), MOST_ROUNDING)


def _unit(dtype: str) -> float:
    for name, unit in COARSE.items():
        if dtype.startswith(name):
            return unit
    return float(np.finfo(dtype).eps)


def loss_parts(a: Trace, b: Trace, least: float) -> bool:
    """Whether the first losses differ by more than rounding."""
    losses = [trace.arrays["updates/loss"][0] for trace in (a, b) if "updates/loss" in trace.arrays]
    if len(losses) < 2:
        return False
    first, second = map(float, losses)
    return not abs(first - second) <= least * max(abs(first), abs(second))


def orders_of_kernels(names: NameMap, a: Trace) -> Iterator[Axes]:
    """How images are laid out in B, by kernels of convolutions that have their channels last there
    or here: the axes that lead to A's images.
    """
    parameters = a.parameters(0)
    for name, source in names.names.items():
        if not isinstance(source, Layout) or name not in parameters or not source.axes:
            continue
        count = parameters[name].ndim
        if count < 3 or len(source.axes) != count or read_name(name).is_embedding:
            continue
        places = tuple(range(count - 2))
        if source.axes[2:] == places:  # B has its places first, and so its channels last
            yield (0, count - 1, *range(1, count - 1))
        elif source.axes[: count - 2] == tuple(range(2, count)):
            yield (0, *range(2, count), 1)
