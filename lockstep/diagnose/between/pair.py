"""Two aligned loops as explanations see them: one side to explain, and the other beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.causes.alternatives import TOLERANCE
from lockstep.diagnose.compare import Bounds, Difference
from lockstep.diagnose.local.steps import StepsOfSide
from lockstep.diagnose.units import FLOAT32, coarsest_dtype, unit_of_schedule
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["CHANGES", "Arrays", "LoopPair", "LoopSide"]

Arrays = dict[str, NDArray[Any]]
"""Name of a tensor -> array in its own shape, floats in float64."""
TOLERANCE_OF_RATES = 1e-6
"""Largest relative error of an explanation of rates in float32: a few units of the last place."""
CHANGES = ("update", "parameters")
"""Stages whose tensors are the changes of the parameters."""


@dataclass(frozen=True)
class LoopSide:
    """One of two aligned loops: `name` is "a" or "b"."""

    name: str
    trace: Trace

    def tensors(self, stage: str, update: int) -> Arrays:
        """The tensors of a stage at an update, counted from 0; empty where none were recorded.

        Of "init" these are the initial parameters, of "update" and "parameters" the change of each
        parameter, of "lr" the whole series of each group ("lr", "lr1"), and of "loss" the update's
        loss, of shape (), as "loss". All others are named as the trace names them, without the
        stage.
        """
        if stage == "init":
            return self.parameters(0)
        if stage in CHANGES:
            before = self.parameters(update)
            after = self.parameters(update + 1)
            return {name: after[name] - before[name] for name in after if name in before}
        if stage == "lr":
            series = arrays_below(self.trace.arrays, "updates/lr")
            return {
                f"lr{group}": array.astype(np.float64)
                for group, array in series.items()
                if not group or group.isdecimal()
            }
        if stage == "loss":
            loss = self.series("loss", update)
            return {} if loss is None else {"loss": np.array(loss)}
        return self._below(f"detail/{update}/{stage}/")

    def parameters(self, updates: int) -> Arrays:
        """The parameters and buffers after so many updates; empty where they were not recorded."""
        return self._below(f"parameters/{updates}/")

    def series(self, name: str, update: int) -> float | None:
        """A value of a series, such as "grad_norm", at an update; None where it has none."""
        values = self.trace.arrays.get(f"updates/{name}")
        place = update - self.trace.first_update
        return float(values[place]) if values is not None and 0 <= place < len(values) else None

    @cached_property
    def steps(self) -> StepsOfSide:
        """Its updates, of which each is measured once."""
        return StepsOfSide(self.trace)

    @cached_property
    def rules_followed(self) -> dict[int, Any]:
        """Update -> the rule of its step (a `StepRule`, or None), as far as it was looked for."""
        return {}

    @cached_property
    def buffers(self) -> frozenset[str]:
        """The names of what is kept beside the parameters and is not trained."""
        return frozenset(self.trace.header.get("buffers", []))

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What the loop declared."""
        return self.trace.header.get("settings") or {}

    @cached_property
    def reading(self) -> Mapping[str, Any]:
        """What was read off the loop: optimizers, schedulers, modules and wrappers."""
        return self.trace.header.get("read") or {}

    @cached_property
    def memory(self) -> dict[str, Any]:
        """What explanations have computed of this side, for the next that asks."""
        return {}

    @cached_property
    def layers(self) -> list[str]:
        """The layers in call order."""
        return list(self.trace.header.get("layers", []))

    def input_of(self, layer: str, update: int) -> NDArray[Any] | None:
        """The recorded array that fed a layer; None where that is not known."""
        source = (self.trace.header.get("inputs") or {}).get(layer)
        array = None if source is None else self.trace.arrays.get(f"detail/{update}/{source}")
        return None if array is None else _wide(array)

    def _below(self, prefix: str) -> Arrays:
        arrays = arrays_below(self.trace.arrays, prefix)
        return {name: _wide(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class LoopPair:
    """Two aligned loops and where they part.

    `mine` is the side whose numbers are to be explained and `other` the one beside it. Every
    explanation is asked for twice, with either side as `mine`.
    """

    mine: LoopSide
    other: LoopSide
    first: Difference
    bounds: Bounds

    @property
    def update(self) -> int:
        """The update at which they part, counted from 0; -1 before training."""
        return self.first.update

    @cached_property
    def memory(self) -> dict[str, Any]:
        """What explanations have computed of both sides, for the next that asks."""
        return {}

    @property
    def swapped(self) -> "LoopPair":
        """The same with the other side to explain."""
        return LoopPair(self.other, self.mine, self.first, self.bounds)

    @cached_property
    def tolerance(self) -> float:
        """Largest relative error of an explanation, by the coarser dtype of both sides."""
        dtypes = [coarsest_dtype(side.trace) for side in (self.mine, self.other)]
        return max(TOLERANCE.get(dtype, TOLERANCE["bfloat16"]) for dtype in dtypes)

    def tolerance_at(self, stage: str) -> float:
        """Largest relative error of an explanation at a stage: rates have digits of their own,
        whatever the parameters are in.
        """
        if stage != "lr":
            return self.tolerance
        units = [
            unit_of_schedule(side.trace, name)
            for side in (self.mine, self.other)
            for name in side.trace.arrays
            if name == "updates/lr"
        ]
        return TOLERANCE_OF_RATES if max(units, default=0) >= FLOAT32 else TOLERANCE["float64"]

    def differing(self, stage: str, update: int | None = None) -> list[str]:
        """The tensors of a stage that both sides hold in one shape and that differ by more than
        rounding, in the order of the trace.
        """
        update = self.update if update is None else update
        mine = self.mine.tensors(stage, update)
        other = self.other.tensors(stage, update)
        return [
            name
            for name, array in mine.items()
            if name in other
            and other[name].shape == array.shape
            and not self.is_equal(stage, name, array, other[name], update)
        ]

    def is_equal(
        self, stage: str, name: str, mine: NDArray[Any], other: NDArray[Any], update: int
    ) -> bool:
        """Whether two arrays differ by no more than rounding may do to this tensor."""
        bound = self.bounds.get(array_name(stage, name, update))
        if bound is None or stage in CHANGES:
            size = float(np.abs(mine[np.isfinite(mine)]).max(initial=0.0))
            bound = np.asarray(self.tolerance / TOLERANCE_TO_ROUNDING * size)
        if stage in ("lr", "loss") and bound.ndim and mine.ndim == 0:
            bound = bound[update]
        with np.errstate(all="ignore"):
            near = np.abs(mine - other) <= bound
        return bool((near | (mine == other) | (np.isnan(mine) & np.isnan(other))).all())


TOLERANCE_TO_ROUNDING = 100.0
"""An explanation may be off by so many times what counts as equal where no bound was derived."""


def array_name(stage: str, name: str, update: int) -> str:
    """The name in a trace of a tensor of a stage."""
    if stage == "init":
        return f"parameters/0/{name}"
    if stage in CHANGES:
        return f"parameters/{update + 1}/{name}"
    return f"updates/{name}" if stage in ("lr", "loss") else f"detail/{update}/{stage}/{name}"


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    """Floats in float64; flags and unsigned numbers as integers that can be subtracted."""
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    return array.astype(np.int64) if array.dtype.kind in "bu" else array
