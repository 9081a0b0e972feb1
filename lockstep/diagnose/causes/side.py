"""One update of a trace: the inputs that a stage is recomputed from, and its recorded outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData, initial_statistics, prepare
from lockstep.diagnose.causes.alternatives import TOLERANCE
from lockstep.diagnose.causes.tensors import Tensors
from lockstep.errors import InputError
from lockstep.oracle.arithmetic import Array, Moments
from lockstep.recipe import Recipe, field_infos
from lockstep.records.trace import Trace
from lockstep.schedules.rate_tables import rate_of, rate_tables
from lockstep.tensor_file import arrays_below

__all__ = ["Labels", "Masks", "RecordedBatch", "Side", "declared", "prepared_data", "rows"]

SECTIONS = tuple(field.name for field in fields(Recipe))
NAMED = ("optimizer", "loss", "schedule")  # sections that say nothing without a name

Labels = NDArray[Any]
"""Classes (B,) int64, or numbers (B,) of a float dtype."""
Masks = tuple[NDArray[np.bool_], ...]
"""The dropout masks (B, units), one for each hidden layer; empty without dropout."""


class RecordedBatch(NamedTuple):
    """The rows of one update: x (B, ...) in float64, y (B,), whose whole numbers can be negated,
    and the dropout masks.
    """

    x: Array
    y: Labels
    masks: Masks


@dataclass(frozen=True)
class Side:
    """One of two traces at one update, counted from 0.

    `others` are traces that agree with it up to this update: what this one did not record of the
    time before is taken from them.
    """

    name: str
    trace: Trace
    update: int
    others: tuple[Trace, ...] = ()

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe that is trained. For a loop this is what it declared, the rest being defaults;
        None where that is no recipe.
        """
        return declared(self.trace)[0]

    def declares(self, *sections: str) -> bool:
        """Whether all that these sections hold is known."""
        return declared(self.trace)[1].issuperset(sections)

    @property
    def is_oracle(self) -> bool:
        """Whether it is right by definition."""
        return self.trace.header.get("backend") == "oracle"

    @cached_property
    def precision(self) -> str:
        """The dtype of what was recorded."""
        known = self.trace.header.get("dtype")
        if known:
            return str(known)
        dtypes = [
            array.dtype
            for array in self.trace.arrays.values()
            if array.dtype.kind == "f" and array.ndim
        ]
        return str(min(dtypes, key=lambda dtype: dtype.itemsize, default="float64"))

    @property
    def tolerance(self) -> float:
        """Largest relative error of an explanation."""
        return TOLERANCE.get(self.precision, TOLERANCE["bfloat16"])

    def below(self, prefix: str, *, agreed: bool = False) -> Tensors:
        """Name -> array in float64, a vector as a single row. `agreed` looks at the other traces
        too.
        """
        traces = (self.trace, *self.others) if agreed else (self.trace,)
        if agreed and self.trace.header.get("synchronised"):
            # every update began from the oracle's state
            traces = tuple(trace for trace in traces if trace.header.get("backend") == "oracle")
        for trace in traces:
            arrays = arrays_below(trace.arrays, prefix)
            if arrays:
                return {name: rows(array) for name, array in arrays.items()}
        return {}

    def detail(self, family: str, update: int | None = None) -> Tensors:
        """The tensors of a family, such as "gradients", at this or another update; empty if they
        were not recorded.
        """
        return self.below(f"detail/{self.update if update is None else update}/{family}/")

    def series(self, name: str, update: int | None = None) -> float | None:
        """A value of a series, at this or another update; None if it was not recorded."""
        values = self.trace.arrays.get(f"updates/{name}")
        place = (self.update if update is None else update) - self.trace.first_update
        return float(values[place]) if values is not None and 0 <= place < len(values) else None

    def parameters(self, updates: int) -> Tensors:
        """The parameters after so many updates, without running statistics. Those before this
        update may come from any of the traces.
        """
        tensors = self.below(f"parameters/{updates}/", agreed=updates <= self.update)
        return {name: array for name, array in tensors.items() if name not in self._statistics}

    def statistics(self, updates: int) -> Tensors:
        """Running statistics after so many updates."""
        tensors = self.below(f"parameters/{updates}/", agreed=updates <= self.update)
        return {name: array for name, array in tensors.items() if name in self._statistics}

    @cached_property
    def _statistics(self) -> frozenset[str]:
        """The names of the running statistics."""
        if not self.recipe or not self.declares("model"):
            return frozenset()
        return frozenset(initial_statistics(self.recipe.model))

    def batch(self) -> RecordedBatch | None:
        """The rows of this update; None if they were not recorded."""
        arrays = arrays_below(self.trace.arrays, f"detail/{self.update}/batch/")
        x = arrays.get("x")
        y = arrays.get("y")
        if x is None or y is None:
            return None
        names = [name for name in arrays if name.startswith("mask")]
        names.sort(key=lambda name: (len(name), name))
        if y.dtype.kind in "bu":
            y = y.astype(np.int64)
        masks = tuple(arrays[name].astype(bool) for name in names)
        return RecordedBatch(x.astype(np.float64), y, masks)

    def moments_before(self) -> dict[str, Moments] | None:
        """Parameter -> what the optimizer remembered of it before this update; None if it was not
        recorded.
        """
        if self.update == 0:
            return {}
        moments: dict[str, Moments] = {}
        for path, array in self.below(f"detail/{self.update - 1}/moments/", agreed=True).items():
            slot, _, name = path.partition("/")
            moments.setdefault(name, {})[slot] = array
        return moments or None

    def rate(self, name: str, offset: int = 0) -> float | None:
        """The learning rate of a parameter at this update, or so many later. For a loop it is the
        recorded one, or else the fixed one of its settings; None if there is neither.
        """
        update = max(self.update + offset, 0)
        if self.recipe and "recipe" in self.trace.header:
            tables = rate_tables(self.recipe, self.trace.header["updates_per_epoch"])
            table_T = tables[rate_of(self.recipe.optimizer, name)]
            return float(table_T[min(update, len(table_T) - 1)])
        recorded = self.series("lr", update)
        if recorded is not None:
            return recorded
        settings = self.trace.header.get("settings", {}).get("optimizer", {})
        if not isinstance(settings, Mapping):
            return None
        fixed = settings.get("lr", settings.get("learning_rate"))
        return float(fixed) if isinstance(fixed, int | float) else None


def rows(array: NDArray[Any]) -> Array:
    """The array in float64, as the oracle has it: a vector is a single row, a number (1, 1)."""
    return np.atleast_2d(array.astype(np.float64))


def declared(trace: Trace) -> tuple[Recipe | None, frozenset[str]]:
    """A trace's recipe and the sections of it that are known."""
    if "recipe" in trace.header:
        return _parse(trace.header["recipe_hash"], trace), frozenset(SECTIONS)
    settings = trace.header.get("settings", {})
    stated: dict[str, dict[str, Any]] = {}
    for section, values in settings.items():
        if section not in SECTIONS or not isinstance(values, Mapping):
            continue
        if "name" in values or section not in NAMED:
            stated[section] = {
                name: values[name] for name in field_infos(section) if name in values
            }
    try:
        return Recipe.from_dict(stated), frozenset(stated)
    except InputError:
        return None, frozenset()


def prepared_data(recipe: Recipe, data_hash: str) -> PreparedData | None:
    """The rows, batches and initial parameters of a recipe; None where they cannot be had, or have
    changed.
    """
    try:
        data = _prepare(recipe)
    except InputError:
        return None
    return data if data.hash == data_hash else None


@lru_cache(maxsize=4)
def _prepare(recipe: Recipe) -> PreparedData:
    return prepare(recipe)


def _parse(key: str, trace: Trace) -> Recipe:
    if key not in _RECIPES:
        _RECIPES.clear()
        _RECIPES[key] = trace.recipe
    return _RECIPES[key]


_RECIPES: dict[str, Recipe] = {}
"""Hash -> the recipe that was parsed last."""
