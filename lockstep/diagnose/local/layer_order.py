"""The order of layers, from the tensors, where a trace has lost it.

JAX's `jit` hands dictionaries back sorted by name, so that outputs of layers that a loop returned
from a compiled function stand in the order of the alphabet. Which comes of which is told by the
tensors: a layer that is another's output times its own kernel follows that one, and so does a
normalisation or an activation of it.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["order_of_layers"]

TOLERANCE = {"float16": 2e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-4}
"""Dtype -> how far a recomputed layer may lie from the recorded one, relative to its 2-norm."""
STEEPEST = 2.0
"""An activation's slope is below this."""
MOST_LAYERS = 200
ROWS = 32
"""Rows of a batch that are looked at."""
LEAST_ELEMENTS = 8
"""Elements below which an activation is not told from chance."""


def order_of_layers(*traces: Trace) -> list[str]:
    """The layers of the first trace, in the order in which they are computed.

    The listed order stands unless the names are in the order of the alphabet and a relation
    contradicts it: a layer is listed before the one that it is computed from. The first of the
    traces that does so gives the order. Layers that no relation places stand last then.

    Args:
        traces: of loops that have the same names.
    """
    listed = list(traces[0].header.get("layers", []))
    is_in_call_order = any(trace.header.get("inputs") for trace in traces)
    if is_in_call_order or listed != sorted(listed) or not 1 < len(listed) <= MOST_LAYERS:
        return listed
    for trace in traces:
        sources = _sources(trace, listed)
        if any(source in listed[listed.index(layer) :] for layer, source in sources.items()):
            return _sorted(listed, sources)
    return listed


def _sorted(listed: Sequence[str], sources: Mapping[str, str]) -> list[str]:
    """Each layer after its source; as listed wherever this leaves a choice; unplaced ones last."""
    placed = [layer for layer in listed if layer in sources or layer in sources.values()]
    order: list[str] = []
    while len(order) < len(placed):
        rest = [layer for layer in placed if layer not in order]
        ready = [layer for layer in rest if sources.get(layer) not in rest]
        order.append(ready[0] if ready else rest[0])
    return order + [layer for layer in listed if layer not in placed]


def _sources(trace: Trace, layers: Sequence[str]) -> dict[str, str]:
    """Layer -> the layer, or the array of the batch as "batch/x", that it is computed from.

    Layers with a kernel of their own are told first. A layer without one follows a layer that is
    told already, since a normalisation looks alike from both ends.
    """
    update = next(iter(trace.header.get("detail", [])), None)
    arrays = arrays_below(trace.arrays, f"detail/{update}/")
    if update is None or not all(f"forward/{layer}" in arrays for layer in layers):
        return {}
    outputs = {layer: np.atleast_1d(arrays[f"forward/{layer}"])[:ROWS] for layer in layers}
    batch = {
        name: array[:ROWS]
        for name, array in arrays.items()
        if name.startswith("batch/") and array.ndim
    }
    parameters = trace.parameters(update)
    sources: dict[str, str] = {}
    for layer, output in outputs.items():
        kernels = list(_own(layer, parameters))
        for name, source in {**batch, **outputs}.items():
            if name != layer and _is_product(output, source, kernels):
                sources[layer] = name
                break
    while True:
        more = _source_of_one_more(outputs, parameters, sources)
        if more is None:
            return sources
        sources[more[0]] = more[1]


def _source_of_one_more(
    outputs: Mapping[str, Array], parameters: Mapping[str, Array], sources: Mapping[str, str]
) -> tuple[str, str] | None:
    """A layer that is not told yet and follows one that is, and that one."""
    for layer, output in outputs.items():
        if layer in sources:
            continue
        own = list(_own(layer, parameters))
        for name in sources:
            if _follows(output, outputs[name], own):
                return layer, name
    return None


def _own(layer: str, parameters: Mapping[str, Array]) -> Iterator[Array]:
    """A layer's own parameters."""
    for name, array in parameters.items():
        if name == layer or name.rpartition(".")[0] == layer:
            yield array.astype(np.float64)


def _is_product(output: Array, source: Array, own: Sequence[Array]) -> bool:
    """Whether an output is a source times a kernel, with or without a bias, or rows of a kernel."""
    vectors = [array for array in own if array.ndim == 1]
    for kernel in own:
        if kernel.ndim != 2:
            continue
        for matrix in (kernel, kernel.T):
            product = _product(source, matrix)
            if product is None or product.shape != output.shape:
                continue
            biases = [np.zeros(1), *(v for v in vectors if v.shape == product.shape[-1:])]
            if any(_is_near(output, product + bias) for bias in biases):
                return True
    return False


def _product(source: Array, matrix: Array) -> Array | None:
    if source.dtype.kind in "iu":
        is_index = source.size and source.min() >= 0 and source.max() < len(matrix)
        return matrix[source] if is_index else None
    if not source.ndim or source.shape[-1] != len(matrix):
        return None
    with np.errstate(all="ignore"):
        return source.astype(np.float64) @ matrix


def _follows(output: Array, source: Array, own: Sequence[Array]) -> bool:
    """Whether an output is a normalisation of a source's rows, or an activation of its elements."""
    if output.shape != source.shape or output.ndim < 2 or np.ptp(output) == 0:
        return False
    width = output.shape[-1]
    vectors = [array for array in own if array.shape == (width,)]
    scales = [np.ones(width), *vectors]
    shifts = [np.zeros(width), *vectors]
    for scale in scales:
        for shift in shifts:
            if (scale != 0).all() and _has_affine_rows((output - shift) / scale, source, output):
                return True
    return not own and _is_activation(output, source)


def _has_affine_rows(values: Array, source: Array, output: Array) -> bool:
    """Whether each row (n,) of values is a number times the source's row, plus a number."""
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    others = source.reshape(rows.shape).astype(np.float64)
    if rows.shape[1] < 4:
        return False
    rows = rows - rows.mean(axis=1, keepdims=True)
    others = others - others.mean(axis=1, keepdims=True)
    squares = np.square(others).sum(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        factors = (rows * others).sum(axis=1, keepdims=True) / squares
    is_rising = bool(np.isfinite(factors).all() and (factors > 0).all())
    return is_rising and _is_near(rows, factors * others, output.dtype.name)


def _is_activation(output: Array, source: Array) -> bool:
    """Whether elements of the output are a function, nowhere steep, of the source's elements."""
    if output.size < LEAST_ELEMENTS:
        return False
    order = np.argsort(source, axis=None)
    given = source.reshape(-1)[order].astype(np.float64)
    taken = output.reshape(-1)[order].astype(np.float64)
    slack = TOLERANCE.get(output.dtype.name, 0.0) * np.abs(taken).max()
    return bool((np.abs(np.diff(taken)) <= STEEPEST * np.diff(given) + slack).all())


def _is_near(output: Array, values: Array, dtype: str = "") -> bool:
    tolerance = TOLERANCE.get(dtype or output.dtype.name, 0.0)
    with np.errstate(all="ignore"):
        size = float(np.linalg.norm(np.asarray(output, np.float64)))
        gap = float(np.linalg.norm(np.asarray(output, np.float64) - values))
    return bool(np.isfinite(gap) and size > 0 and gap <= tolerance * size)
