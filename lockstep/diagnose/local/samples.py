"""The elements of one update that its rule is measured on: some of each tensor, always the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.units import unit_of_dtype
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["Sample", "read_samples", "unit_of_array"]

MOST_ELEMENTS = 150_000
"""Elements that are taken of all tensors together."""
LEAST_EACH = 400
MOST_TENSORS = 200
SMALLEST = 200
"""Elements of the smallest second moment, which alone tell eps."""
MOST_SORTED = 1_000_000
"""Elements among which the smallest are looked for."""
ALIASES = {"exp_inf": "infinity"}
SEED = 20


@dataclass(frozen=True)
class Sample:
    """Elements (n,) of a parameter at one update, in float64.

    Attributes:
        name: of the parameter.
        ndim: axes of the parameter.
        before: the parameter before the update.
        after: the parameter after it.
        gradient: what the optimizer was given, as far as it was recorded.
        moments: slot -> what the optimizer remembers after the update.
        earlier: slot -> what it remembered before. Empty at the first update; None where it was
            not recorded.
        unit: unit roundoff of the parameter.
        units: "gradient" or slot -> its unit roundoff.
        least: smallest normal number of the parameter's dtype.
    """

    name: str
    ndim: int
    before: Array
    after: Array
    gradient: Array
    moments: Mapping[str, Array]
    earlier: Mapping[str, Array] | None
    unit: float
    units: Mapping[str, float] = field(default_factory=dict)
    least: float = 0.0

    @property
    def change(self) -> Array:
        """The parameter after the update less the one before."""
        return self.after - self.before

    def at(self, places: NDArray[Any]) -> "Sample":
        """Some of the elements."""
        earlier = self.earlier
        if earlier is not None:
            earlier = {slot: array[places] for slot, array in earlier.items()}
        return replace(
            self,
            before=self.before[places],
            after=self.after[places],
            gradient=self.gradient[places],
            moments={slot: array[places] for slot, array in self.moments.items()},
            earlier=earlier,
        )

    def thinned(self, most: int) -> "Sample":
        """About so many of the elements, evenly."""
        stride = max(len(self.before) // most, 1)
        return self if stride == 1 else self.at(np.arange(0, len(self.before), stride))


def unit_of_array(trace: Trace, name: str, array: NDArray[Any]) -> float:
    """The unit roundoff of the dtype that an array had in the loop; `name` is "family/name"."""
    widened = trace.header.get("array_dtypes", {})
    return unit_of_dtype(str(widened.get(name, array.dtype.name)))


def read_samples(trace: Trace, update: int) -> list[Sample]:
    """Elements of every trained parameter whose gradient was recorded, most MOST_ELEMENTS in all.

    Parameters that do not change at all are left out, as are running statistics.
    """
    before = trace.parameters(update)
    after = trace.parameters(update + 1)
    buffers = set(trace.header.get("buffers", ()))
    gradients = arrays_below(trace.arrays, f"detail/{update}/clip/")
    family = "clip" if gradients else "gradients"
    gradients = gradients or arrays_below(trace.arrays, f"detail/{update}/gradients/")
    names = [
        name
        for name, gradient in gradients.items()
        if name not in buffers
        and name in before
        and name in after
        and _are_usable(gradient, before[name], after[name])
    ]
    if len(names) > MOST_TENSORS:
        names = [names[i] for i in np.linspace(0, len(names) - 1, MOST_TENSORS).astype(int)]
    slots = _slots(trace, update, before)
    earlier = _slots(trace, update - 1, before) if update else {}
    samples: list[Sample] = []
    rest = MOST_ELEMENTS
    for place, name in enumerate(sorted(names, key=lambda name: before[name].size)):
        size = before[name].size
        moments = slots.get(name, {})
        index = _chosen(size, max(rest // (len(names) - place), LEAST_EACH), moments.get("second"))
        rest -= size if index is None else len(index)
        remembered: dict[str, Array] | None = None
        if update == 0:
            remembered = {}
        elif name in earlier and earlier[name].keys() >= moments.keys():
            remembered = {slot: _taken(earlier[name][slot], index) for slot in moments}
        units = {
            slot: unit_of_array(trace, f"moments/{slot}/{name}", moments[slot]) for slot in moments
        }
        units["gradient"] = unit_of_array(trace, f"{family}/{name}", gradients[name])
        samples.append(
            Sample(
                name=name,
                ndim=sum(length > 1 for length in before[name].shape),
                before=_taken(before[name], index),
                after=_taken(after[name], index),
                gradient=_taken(gradients[name], index),
                moments={slot: _taken(array, index) for slot, array in moments.items()},
                earlier=remembered,
                unit=unit_of_array(trace, f"parameters/{name}", before[name]),
                units=units,
                least=float(np.finfo(before[name].dtype).tiny),
            )
        )
    return samples


def _slots(
    trace: Trace, update: int, parameters: Mapping[str, NDArray[Any]]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Parameter -> slot -> what the optimizer remembers of each of its elements after an update."""
    slots: dict[str, dict[str, NDArray[Any]]] = {}
    for path, array in arrays_below(trace.arrays, f"detail/{update}/moments/").items():
        slot, _, name = path.partition("/")
        parameter = parameters.get(name)
        if parameter is None or array.shape != parameter.shape or array.dtype.kind != "f":
            continue
        slots.setdefault(name, {})[ALIASES.get(slot, slot)] = array
    return slots


def _are_usable(gradient: NDArray[Any], before: NDArray[Any], after: NDArray[Any]) -> bool:
    shapes = {gradient.shape, before.shape, after.shape}
    kinds = {gradient.dtype.kind, before.dtype.kind, after.dtype.kind}
    return len(shapes) == 1 and kinds == {"f"} and before.size > 0 and bool((before != after).any())


def _chosen(size: int, share: int, second: NDArray[Any] | None) -> NDArray[np.int64] | None:
    """The places of so many elements of a tensor; None for all."""
    if size <= share:
        return None
    generator = np.random.Generator(np.random.PCG64(SEED))
    index = generator.integers(0, size, share)
    if second is not None and second.size == size:
        stride = -(-size // MOST_SORTED)
        flat = second.reshape(-1)[::stride]
        if len(flat) > SMALLEST:
            smallest = np.argpartition(flat, SMALLEST)[:SMALLEST]
            index = np.concatenate([index, stride * smallest])
    return np.unique(index)


def _taken(array: NDArray[Any], index: NDArray[np.int64] | None) -> Array:
    flat = array.reshape(-1)
    return np.asarray(flat if index is None else flat[index], dtype=np.float64)
