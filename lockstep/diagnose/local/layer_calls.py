"""The layers of one update of a loop: the output of each, and what may have been its input."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.units import FLOAT32, coarsest_dtype, dtype_of, unit_of_dtype
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["LayerCall", "layer_calls"]

MOST_ELEMENTS = 2**18
"""Elements of an output that are looked at: as many whole examples, and one at least."""
STREAM = "the residual stream"
"""The input that a norm was last known to take."""
MOST_TERMS = 4
"""The outputs since the last known input that a residual stream may be the sum of."""


@dataclass
class LayerCall:
    """One layer in one update.

    Attributes:
        name: of the layer.
        output: what it gave, any shape, float64.
        unit: unit roundoff of the output's own dtype.
        low: unit roundoff of the coarsest dtype that the loop computes in, where that is coarser
            than float32; else 0.
        parameters: last part of the name -> array in float64, of the parameters of this very layer.
        inputs: name -> array in float64: what may have been its input, the nearest before it first.
        is_part: whether only some examples of the batch are looked at.
    """

    name: str
    output: Array
    unit: float
    low: float
    parameters: Mapping[str, Array]
    inputs: Mapping[str, Array]
    is_part: bool

    def same_shape(self) -> dict[str, Array]:
        """The inputs of the output's shape."""
        return {name: x for name, x in self.inputs.items() if x.shape == self.output.shape}


@dataclass
class _Stream:
    """What the layers so far left behind: outputs by name, and sums of them that a norm took in."""

    outputs: dict[str, Array] = field(default_factory=dict)
    base: Array | None = None
    since: list[str] = field(default_factory=list)

    def add(self, name: str, output: Array) -> None:
        """Take in the output of a layer."""
        self.outputs[name] = output
        self.since.append(name)

    def sums(self, shape: tuple[int, ...]) -> dict[str, Array]:
        """The sums of outputs that a residual stream of this shape may be."""
        terms = [name for name in self.since if _broadcasts(self.outputs[name].shape, shape)]
        terms = terms[-MOST_TERMS:]
        sums: dict[str, Array] = {}
        begin = () if self.base is None else (STREAM,)
        for count in range(1, len(terms) + 1):
            if self.base is None and count == 1:
                continue
            for names in combinations(terms, count):
                parts = [self.outputs[name] for name in names]
                total = np.zeros(shape) if self.base is None else self.base
                if total.shape == shape:
                    sums[" + ".join((*begin, *names))] = total + sum(parts)
        return sums


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return bool(shape) and len(shape) > 1 and target[-len(shape) :] == shape


def layer_calls(trace: Trace, update: int) -> Iterator[LayerCall]:
    """The layers of an update in call order.

    Args:
        trace: of a loop, with the update's tensors.
        update: counted from 0.

    Yields:
        A call whose input and output are finite, as masked scores are not. Where the reader settles
        which sum was the input of a norm, it sets `inputs` to that one, and later sums begin there.
    """
    prefix = f"detail/{update}/forward/"
    recorded = arrays_below(trace.arrays, prefix)
    batch = arrays_below(trace.arrays, f"detail/{update}/batch/")
    parameters = trace.parameters(update)
    sources = trace.header.get("inputs") or {}
    coarsest = unit_of_dtype(coarsest_dtype(trace))
    stream = _Stream()
    masked: set[str] = set()
    for name, array in batch.items():
        if array.dtype.kind == "f":
            stream.outputs[f"batch/{name}"] = _in_part(array)[0]
    for layer in trace.header.get("layers", []):
        if layer not in recorded or recorded[layer].dtype.kind != "f":
            continue
        output, is_part = _in_part(recorded[layer])
        if not np.isfinite(output).all():  # masked scores
            masked.add(layer)
            continue
        if layer.endswith(".input"):
            stream.outputs[layer] = output
            continue
        known = str(sources.get(layer, "")).removeprefix("forward/")
        if known in masked:
            stream.add(layer, output)
            continue
        if known in stream.outputs:
            inputs = {known: stream.outputs[known]}
        else:
            nearest = dict(reversed(stream.outputs.items()))
            inputs = nearest | (stream.sums(output.shape) if output.ndim else {})
        call = LayerCall(
            name=layer,
            output=output,
            unit=unit_of_dtype(dtype_of(trace, prefix + layer)),
            low=coarsest if coarsest > FLOAT32 else 0.0,
            parameters=_parameters_of(layer, parameters),
            inputs=inputs,
            is_part=is_part,
        )
        yield call
        if len(call.inputs) == 1 and known not in stream.outputs:
            (stream.base,) = call.inputs.values()
            stream.since = []
        stream.add(layer, output)


def _in_part(array: NDArray[Any]) -> tuple[Array, bool]:
    """The first examples of an array in float64, and whether there are more."""
    if array.size <= MOST_ELEMENTS:
        return array.astype(np.float64), False
    examples = max(1, MOST_ELEMENTS * len(array) // array.size)
    return array[:examples].astype(np.float64), examples < len(array)


def _parameters_of(layer: str, parameters: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters of a layer by the last part of their names; "#2" is a second use of it."""
    module = layer.partition("#")[0]
    return {
        name.rpartition(".")[2]: array.astype(np.float64)
        for name, array in parameters.items()
        if name.rpartition(".")[0] == module
    }
