"""One layer of a loop at an update: its output, what may have been its input, its parameters."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lockstep.diagnose.set_aside import all_parameters
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["INPUT", "Derived", "LayerView", "distance", "layer_view", "unflattened"]

MOST_INPUTS = 12
"""Recorded arrays that are tried as a layer's input, the nearest before it first."""
INPUT = ".input"


class Derived(Mapping[str, Array]):
    """Arrays that are computed when they are asked for.

    Args:
        sources: name -> what gives the array.
        batch: the length of an array that has a row for each example.
        examples: how many of the examples are given; 0 for all.
    """

    def __init__(
        self, sources: Mapping[str, Callable[[], Array]], batch: int = 0, examples: int = 0
    ) -> None:
        self._sources = dict(sources)
        self._arrays: dict[str, Array] = {}
        self._batch = batch
        self._examples = examples

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            array = self._sources[name]()
            is_by_example = self._examples and array.ndim and len(array) == self._batch
            self._arrays[name] = array[: self._examples] if is_by_example else array
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


@dataclass(frozen=True)
class LayerView:
    """A layer of one side.

    Attributes:
        name: of the layer.
        output: what it gave, any shape, float64.
        inputs: name -> array in float64: what may have been its input, the likeliest first.
        parameters: last part of the name -> array, of the parameters and buffers of this layer.
        nested: the rest of the name -> array, of the parameters of this layer and its parts.
        norms: name of another layer -> its parameters and buffers, of those with statistics.
        before: the same layer at the update before; None where that was not recorded.
        moved: an axis of what was recorded, and where it is in the output; () where none was moved.
    """

    name: str
    output: Array
    inputs: Mapping[str, Array]
    parameters: Mapping[str, Array]
    nested: Mapping[str, Array]
    norms: Mapping[str, Mapping[str, Array]]
    before: "LayerView | None" = None
    moved: tuple[int, ...] = ()

    def as_recorded(self, output: Array, shape: tuple[int, ...]) -> Array:
        """An output of this layer in the shape that was recorded."""
        if self.moved:
            begin, end = self.moved
            output = np.moveaxis(output, end, begin)
        return output.reshape(shape)

    def first_examples(self, count: int) -> "LayerView":
        """The same of so many examples."""
        batch = len(self.output) if self.output.ndim else 0
        if batch <= count:
            return self
        inputs: Mapping[str, Array] = Derived(
            {name: partial(self.inputs.__getitem__, name) for name in self.inputs}, batch, count
        )
        return replace(self, output=self.output[:count], inputs=inputs)


def layer_view(
    trace: Trace, layer: str, update: int, common: Collection[str] | None = None
) -> LayerView | None:
    """A layer of a trace; None where its output was not recorded, or is no array of numbers.

    Args:
        trace: of a loop.
        layer: its name, or the name of an input that was recorded, as "fc.input".
        update: counted from 0.
        common: the names that may be inputs, whatever is known of what fed the layer; None for
            what fed it where that is known, and else any.
    """
    recorded = arrays_below(trace.arrays, f"detail/{update}/forward/")
    output = recorded.get(layer)
    if output is None or output.dtype.kind != "f" or not output.ndim or not output.size:
        return None
    wide = output.astype(np.float64)
    if not np.isfinite(wide).all():
        return None
    parameters = {
        name: array.astype(np.float64)
        for name, array in all_parameters(trace, update).items()
        if array.dtype.kind == "f"
    }
    modules: dict[str, dict[str, Array]] = {}
    for name, array in parameters.items():
        module, _, role = name.rpartition(".")
        modules.setdefault(module, {})[role] = array
    own = "" if layer.endswith(INPUT) else layer.partition("#")[0]
    return LayerView(
        name=layer,
        output=wide,
        inputs=dict(_inputs(trace, layer, update, common)),
        parameters=modules.get(own, {}) if own else {},
        nested={
            name.removeprefix(f"{own}."): array
            for name, array in parameters.items()
            if own and name.startswith(f"{own}.")
        },
        norms={name: roles for name, roles in modules.items() if _has_statistics(roles)},
        before=layer_view(trace, layer, update - 1, common) if update == 1 else None,
    )


def unflattened(view: LayerView, layout: str, flat: str) -> LayerView | None:
    """A layer's output (B, features) in the shape it had before it was flattened, if that has the
    channels of the nearest input and its proportions; None where it cannot have.

    Args:
        view: of the layer, which has no parameters.
        layout: of the input: "first" for (B, C, H, W), "last" for (B, H, W, C).
        flat: which of the two the features were flattened in.
    """
    x = next((x for x in view.inputs.values() if x.ndim >= 3), None)
    if view.parameters or view.output.ndim != 2 or x is None:
        return None
    is_first = layout == "first"
    channels = x.shape[1 if is_first else -1]
    lengths = x.shape[2:] if is_first else x.shape[1:-1]
    places, rest = divmod(view.output.shape[1], channels)
    ratio = (places / math.prod(lengths)) ** (1 / len(lengths))
    cut = tuple(round(length * ratio) for length in lengths)
    if rest or math.prod(cut) != places or places < 2:
        return None
    shape = (channels, *cut) if flat == "first" else (*cut, channels)
    y = view.output.reshape(-1, *shape)
    if layout == flat:
        return replace(view, output=y)
    ends = (1, -1) if flat == "first" else (-1, 1)
    return replace(view, output=np.moveaxis(y, *ends), moved=ends)


def _has_statistics(roles: Mapping[str, Array]) -> bool:
    return any("mean" in role for role in roles) and any("var" in role for role in roles)


def _inputs(
    trace: Trace, layer: str, update: int, common: Collection[str] | None
) -> Iterator[tuple[str, Array]]:
    """What may have fed a layer: what did where that is known, else the arrays nearest before."""
    prefix = f"detail/{update}/"
    source = (trace.header.get("inputs") or {}).get(layer)
    known = None if source is None else trace.arrays.get(prefix + source)
    is_known = source is not None and known is not None and known.dtype.kind == "f"
    if is_known and known is not None and common is None:
        yield str(source).partition("/")[2], known.astype(np.float64)
        return
    layers = list(trace.header.get("layers", []))
    place = layers.index(layer) if layer in layers else len(layers)
    near = [*reversed(layers[:place]), *layers[place + 1 :]]
    batch = arrays_below(trace.arrays, f"{prefix}batch/")
    names = [f"forward/{name}" for name in near] + [f"batch/{name}" for name in batch]
    if place == 0:
        names = [f"batch/{name}" for name in batch] + [f"forward/{name}" for name in near]
    count = 0
    for name in names:
        array = trace.arrays.get(prefix + name)
        if array is None or array.dtype.kind != "f" or array.ndim < 2:
            continue
        if common is not None and name not in common:
            continue
        wide = array.astype(np.float64)
        if not np.isfinite(wide).all():
            continue
        yield name.partition("/")[2], wide
        count += 1
        if count == MOST_INPUTS:
            return


def distance(values: Array | None, output: Array) -> float:
    """How far values are off from an output, relative to its 2-norm; infinite for another shape."""
    if values is None or values.shape != output.shape:
        return np.inf
    size = float(np.linalg.norm(output))
    gap = float(np.linalg.norm(values - output))
    return gap / size if size and np.isfinite(gap) else np.inf
