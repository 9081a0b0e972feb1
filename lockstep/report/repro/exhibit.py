"""What shows a divergence: the arrays that a stage reads and gives, of both sides."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.compare import Difference
from lockstep.diagnose.diagnosis import Diagnosis
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["Exhibit", "exhibit_of"]

STEP = ("moments", "update", "parameters")
"""Stages that the optimizer computes."""
Arrays = Mapping[str, NDArray[Any]]


class Exhibit(NamedTuple):
    """A divergence alone.

    Attributes:
        first: where the two sides part.
        inputs: name -> what the stage reads on side a and on side b; equal but for rounding, where
            the stage is the first that differs.
        outputs: name -> what it gives on either side.
        history: of a step, the same inputs at each earlier update, from update 0 on; None where
            they were not all recorded.
    """

    first: Difference
    inputs: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    outputs: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    history: list[dict[str, tuple[NDArray[Any], NDArray[Any]]]] | None = None


def exhibit_of(diagnosis: Diagnosis, a: Trace, b: Trace) -> Exhibit:
    """The arrays of the stage at which two traces part.

    Args:
        diagnosis: of the two.
        a: one trace.
        b: the other, in the names and layouts of `a`.

    Raises:
        InputError: the traces do not part, or no array of the stage was recorded on both sides.
    """
    first = diagnosis.first
    if first is None:
        raise InputError("the two sides do not part: there is nothing to reproduce")
    outputs = _pairs(_outputs(a, first), _outputs(b, first))
    if not outputs:
        raise InputError(
            f"update {first.update}, {first.stage}: its tensors were not recorded on both sides; "
            f"record them with Recorder(window=range({first.update}, {first.update + 1}))"
        )
    inputs = _pairs(_inputs(a, first), _inputs(b, first))
    history = None
    if first.stage in STEP:
        earlier = [_pairs(_of_step(a, u), _of_step(b, u)) for u in range(first.update)]
        is_whole = all(any(name.startswith("gradient/") for name in pairs) for pairs in earlier)
        history = earlier if is_whole else None
    return Exhibit(first, inputs, outputs, history)


def _pairs(of_a: Arrays, of_b: Arrays) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    return {name: (array, of_b[name]) for name, array in of_a.items() if name in of_b}


def _outputs(trace: Trace, first: Difference) -> dict[str, NDArray[Any]]:
    """What the stage gives, by a short name."""
    update, stage = first.update, first.stage
    if stage == "init":
        return trace.parameters(0)
    if stage == "lr":
        return {"lr": trace.arrays["updates/lr"]}
    if stage == "loss":
        return {"loss": trace.arrays["updates/loss"][update : update + 1]}
    if stage in STEP:
        after = {f"parameter/{name}": array for name, array in trace.parameters(update + 1).items()}
        return after | _below(trace, update, "moments", "moment")
    if stage == "forward":
        name = f"detail/{update}/forward/{first.tensor}"
        return {first.tensor: trace.arrays[name]} if name in trace.arrays else {}
    return arrays_below(trace.arrays, f"detail/{update}/{stage}/")


def _inputs(trace: Trace, first: Difference) -> dict[str, NDArray[Any]]:
    """What the stage reads, by a short name."""
    update, stage = first.update, first.stage
    if stage == "forward":
        return dict(_of_layer(trace, update, first.tensor))
    if stage == "loss":
        recorded = _below(trace, update, "forward", "output")
        layers = [f"output/{name}" for name in trace.header.get("layers", []) if name]
        last = [name for name in layers if name in recorded][-1:]
        return {name: recorded[name] for name in last} | _below(trace, update, "batch", "batch")
    if stage == "gradients":
        before = _below(trace, update - 1, "gradients", "gradient of the update before")
        return _below(trace, update, "batch", "batch") | before
    if stage == "clip":
        return _below(trace, update, "gradients", "gradient")
    return _of_step(trace, update) if stage in STEP else {}


def _of_layer(trace: Trace, update: int, layer: str) -> Iterator[tuple[str, NDArray[Any]]]:
    source = (trace.header.get("inputs") or {}).get(layer)
    array = trace.arrays.get(f"detail/{update}/{source}")
    if array is not None:
        yield "input", array
    for name, parameter in trace.parameters(update).items():
        if name.rpartition(".")[0] == layer.partition("#")[0]:
            yield f"parameter/{name.rpartition('.')[2]}", parameter


def _of_step(trace: Trace, update: int) -> dict[str, NDArray[Any]]:
    """Parameters before a step, its gradients as the optimizer was given them, and its rate."""
    arrays = {f"parameter/{name}": array for name, array in trace.parameters(update).items()}
    clipped = _below(trace, update, "clip", "gradient")
    arrays |= clipped or _below(trace, update, "gradients", "gradient")
    rates = trace.arrays.get("updates/lr")
    if rates is not None:
        arrays["lr"] = np.asarray(rates[update])
    return arrays


def _below(trace: Trace, update: int, family: str, word: str) -> dict[str, NDArray[Any]]:
    arrays = arrays_below(trace.arrays, f"detail/{update}/{family}/")
    return {f"{word}/{name}": array for name, array in arrays.items()}
