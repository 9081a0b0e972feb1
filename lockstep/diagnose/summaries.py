"""Bounds on the statistics and sketches of tensors that were not recorded themselves.

Where rounding moves the elements of a tensor by at most d, it moves mean, root mean square and
largest value by at most d, and a sketch by at most `sketch_tail` times d but for a chance of 1e-10.

What a step adds to the parameters is known from their sketches: the mean square of a difference of
sketches is that of the tensors' difference, on average over random signs. Two terms use it:

- hyperparameters that are rounded change a step in proportion to it;
- an optimizer that divides a gradient by its own size makes a full step of an element whose
  gradient is 0 but for rounding, and its sign is chance. Of gradients with the root mean square r
  and errors up to e this happens to about e / r of the elements, so that the root mean square of
  what the step may be off by is sqrt(2 e / r) of its own.

Where two runs have the same bits up to an update, rounding has carried them nowhere yet, and the
bounds count from there.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.naming.name_map import split_name
from lockstep.oracle.arithmetic import Array
from lockstep.records.tensor_statistics import STATISTICS
from lockstep.records.tensor_summary import flat_of, sketch_tail, summarise
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = [
    "LAYERED",
    "SUMMARIES",
    "SummaryBounds",
    "complete_summaries",
    "distances_by_sketches",
    "initial_norm",
    "is_same_at",
    "same_gradients",
    "same_updates",
    "summary_of",
]

LAYERED = ("gradients", "clip", "moments")
SUMMARIES = ("statistics/", "sketches/", "summaries/")
SUMMED = 1e-12
"""Relative error of statistics and sketches, which are summed in float64. A change of one element
of a float32 tensor by one unit in the last place is beyond it up to 1e9 elements."""
UNCERTAIN = 2.0
"""How much larger a difference may be than its eight sketches say."""
PACKED = 3
"""Queries, keys and values in one matrix: how many times as wide as what it is fed, at most."""
WIDEST = 4.0
"""A step's largest element over its root mean square: where it is larger, one element counts."""

Relative = Callable[[str, str, NDArray[np.int64], NDArray[np.int64]], Array]
"""The bound on a relative error of an array, of a family, at updates, after so many updates."""


def same_updates(a: Trace, b: Trace) -> int:
    """How many updates from the first the two sides' parameters have the same sketches, to the bit,
    and all that is recorded at each of them the same numbers.
    """
    kinds = ("updates/", "statistics/", "sketches/")
    common = [name for name in a.arrays if name.startswith(kinds) and name in b.arrays]
    if not any(name.startswith("sketches/parameters/") for name in common):
        return 0
    same = int(a.header["updates"])
    for name in common:
        is_same_T = _is_same(a, b, name)[:same]
        same = len(is_same_T) if is_same_T.all() else int(is_same_T.argmin())
    return same


def is_same_at(a: Trace, b: Trace, name: str, update: int) -> bool:
    """Whether both traces have the same numbers of an update in a table, as far as both have it."""
    if name not in b.arrays or update >= min(len(a.arrays[name]), len(b.arrays[name])):
        return True
    return bool(_is_same(a, b, name)[update])


def _is_same(a: Trace, b: Trace, name: str) -> NDArray[np.bool_]:
    """Whether the rows of an array that both traces hold are the same numbers; NaN equals NaN."""
    rows = min(len(a.arrays[name]), len(b.arrays[name]))
    table_a = a.arrays[name][:rows]
    table_b = b.arrays[name][:rows]
    is_same = (table_a == table_b) | (np.isnan(table_a) & np.isnan(table_b))
    return np.asarray(is_same.all(axis=tuple(range(1, is_same.ndim))))


def complete_summaries(a: Trace, b: Trace) -> set[str]:
    """Make what is left of tensors comparable, in place; the tensors whose sketches are not.

    Where one side stored the first or the last parameters and the other their summaries, the stored
    ones are summarised. Sketches are compared of tensors that have one shape on both sides. Hashes
    are compared where both sides keep their parameters in one dtype.
    """
    for trace, other in ((a, b), (b, a)):
        for key in list(other.arrays):
            kind, _, rest = key.partition("/")
            if kind != "summaries" or key in trace.arrays:
                continue
            done, _, name = rest.partition("/")
            numbers = summary_of(trace, int(done), name)
            if numbers is not None:
                trace.arrays[key] = numbers
    if a.header["dtype"] != b.header["dtype"]:
        for trace in (a, b):
            for key in [key for key in trace.arrays if key.startswith("hashes/")]:
                del trace.arrays[key]
    uncompared = set()
    for key in [key for key in a.arrays if key.startswith("sketches/")]:
        name = key.removeprefix("sketches/")
        shapes = [trace.header.get("shapes", {}).get(name) for trace in (a, b)]
        is_compared = key in b.arrays and shapes[0] is not None and shapes[0] == shapes[1]
        if not is_compared and f"statistics/{name}" in b.arrays:
            uncompared.add(name)
            del a.arrays[key]
    return uncompared


def same_gradients(a: Trace, b: Trace) -> dict[str, NDArray[np.bool_]]:
    """Parameter -> at which updates (T,) the gradient that its optimizer is given has the same
    statistics and sketches on both sides, to the bit.
    """
    same: dict[str, NDArray[np.bool_]] = {}
    for family in ("gradients", "clip"):  # where there are both, the later one counts
        for name in arrays_below(a.arrays, f"sketches/{family}/"):
            keys = [f"{kind}/{family}/{name}" for kind in ("statistics", "sketches")]
            if all(key in trace.arrays for key in keys for trace in (a, b)):
                same[name] = _is_same(a, b, keys[0]) & _is_same(a, b, keys[1])
    return same


def summary_of(trace: Trace, done: int, name: str) -> Array | None:
    """Statistics and sketches of a parameter after so many updates, shape (11,); None where neither
    they nor the parameter were recorded.
    """
    known = trace.arrays.get(f"summaries/{done}/{name}")
    if known is not None:
        return known
    array = trace.arrays.get(f"parameters/{done}/{name}")
    if array is None or not array.size:
        return None
    summary = summarise(array.shape, flat_of(array), sketches=True, hashed=True)
    return np.array([*summary.statistics, *summary.sketches])


def initial_norm(trace: Trace) -> float:
    """The 2-norm of the initial parameters."""
    squares = [np.square(array, dtype=np.float64).sum() for array in trace.parameters(0).values()]
    for name, numbers in arrays_below(trace.arrays, "summaries/0/").items():
        squares.append(math.prod(trace.shapes.get(name, ())) * np.square(numbers[1]))
    return float(np.sqrt(sum(squares)))


def distances_by_sketches(a: Trace, b: Trace, update: int) -> dict[str, Array]:
    """Parameter -> the sums of the squares of its difference after an update and of its elements,
    shape (2,), from its statistics and sketches; of those that both sides have.
    """
    squares = {}
    for name, shape in a.shapes.items():
        key = f"parameters/{name}"
        statistics = a.arrays.get(f"statistics/{key}", np.zeros((0, 3)))
        sketches_a = a.arrays.get(f"sketches/{key}", np.zeros((0, 1)))
        sketches_b = b.arrays.get(f"sketches/{key}", np.zeros((0, 1)))
        if update >= min(len(statistics), len(sketches_a), len(sketches_b)):
            continue
        gap = np.square(sketches_a[update] - sketches_b[update]).mean()
        squares[name] = math.prod(shape) * np.array([gap, np.square(statistics[update, 1])])
    return squares


class SummaryBounds:
    """The bounds on one loop's summaries.

    Args:
        trace: the loop's.
        same: the updates of which both sides have the same bits.
        has_same_gradient: parameter -> at which updates its gradient has the same bits (T,).
        step: relative error of an update by its rounded hyperparameters.
        coarser: of a parameter by its name: the unit roundoff of its dtype, beyond that of the
            arithmetic.
        relative: the relative error of an array.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        same: int,
        has_same_gradient: Mapping[str, NDArray[np.bool_]],
        step: float,
        coarser: Callable[[str], float],
        relative: Relative,
    ) -> None:
        self.trace = trace
        self.same = same
        self.has_same_gradient = has_same_gradient
        self.step = step
        self.coarser = coarser
        self.relative = relative
        self.updates = int(trace.header["updates"])
        self._largest: dict[str, Array] = {}
        for name, table in arrays_below(trace.arrays, "statistics/").items():
            if name.startswith(LAYERED):
                layer = _layer(name)
                known = self._largest.get(layer, np.zeros(1))
                rows = max(len(known), len(table))
                columns = [_filled(column, rows) for column in (known, table[:, 2])]
                self._largest[layer] = np.maximum(*columns)

    def bound(self, name: str) -> Array:
        """The bounds of an array: (T, 3) of statistics, (T, 1) of sketches, (11,) of a parameter's
        summary.
        """
        kind, _, rest = name.partition("/")
        if kind == "summaries":
            done, _, tensor = rest.partition("/")
            return self._bound_of_end(int(done), tensor, self.trace.arrays[name])
        rows = len(self.trace.arrays[name])
        statistics = self.trace.arrays[f"statistics/{rest}"][:rows]
        of_rms_T, of_largest_T = self._errors(rest, np.arange(rows), statistics)
        if kind == "sketches":
            shape = self.trace.header["shapes"].get(rest, ())
            return np.asarray(sketch_tail(shape) * of_rms_T[:, None])
        return np.stack([of_rms_T, of_rms_T, of_largest_T], axis=-1)

    def _errors(self, key: str, at: NDArray[np.int64], statistics: Array) -> tuple[Array, Array]:
        """How far rounding moves the elements of a tensor at the updates `at`: as a root mean
        square, and the largest.
        """
        _, family, tensor = split_name(f"statistics/{key}")
        largest_T = np.nan_to_num(np.abs(statistics[:, 2]), nan=0.0, posinf=0.0)
        size_T = largest_T
        if family in LAYERED and _layer(key) in self._largest:
            size_T = self._largest[_layer(key)][at]
        error_T = self.relative(f"statistics/{key}", family, at, at + 1) * size_T
        error_T = error_T + SUMMED * largest_T
        if family != "parameters" or tensor in self.trace.header["buffers"]:
            return error_T, error_T
        counted = np.maximum(at + 1 - self.same, 1)
        error_T = error_T + self.coarser(tensor) * counted * largest_T
        step_T = self._steps(tensor)
        gone_T = np.cumsum(step_T)[at]
        of_rms_T = error_T + self.step * counted * gone_T
        of_rms_T = of_rms_T + np.cumsum(np.sqrt(self._unsure(tensor)) * step_T)[at]
        of_largest_T = error_T + self.step * counted * largest_T + WIDEST * gone_T
        return of_rms_T, of_largest_T

    def _steps(self, tensor: str) -> Array:
        """The root mean square of a parameter's steps (T,), 0 where both sides have the same bits;
        at least that.
        """
        size = math.prod(self.trace.shapes.get(tensor, ()))
        unknown_T = np.full(self.updates, np.inf)
        norm_T = np.abs(self.trace.arrays.get("updates/update_norm", unknown_T)).astype(np.float64)
        steps_T = norm_T / math.sqrt(max(size, 1))
        sketches = self.trace.arrays.get(f"sketches/parameters/{tensor}")
        first = summary_of(self.trace, 0, tensor)
        if sketches is not None and first is not None:
            states = np.concatenate([first[None, len(STATISTICS) :], sketches])
            moves_T = np.sqrt(np.square(np.diff(states, axis=0)).mean(axis=-1))
            steps_T[: len(moves_T)] = np.fmin(steps_T[: len(moves_T)], UNCERTAIN * moves_T)
        steps_T = np.where(np.isfinite(steps_T), steps_T, 0.0)
        steps_T[: self.same] = 0.0
        return steps_T

    def _unsure(self, tensor: str) -> Array:
        """The share of a parameter's elements whose step says nothing (T,)."""
        at = np.arange(self.updates)
        for family in ("clip", "gradients"):
            key = f"{family}/{tensor}"
            table = self.trace.arrays.get(f"statistics/{key}")
            if table is None or not len(table):
                continue
            rows = np.arange(len(table))
            error_T, _ = self._errors(key, rows, table)
            rms_T = np.abs(table[:, 1])
            with np.errstate(divide="ignore", invalid="ignore"):
                share_T = np.where(rms_T > 2 * error_T, 2 * error_T / rms_T, 1.0)
            share_T = np.pad(share_T, (0, self.updates - len(rows)), mode="edge")
            if self._may_hold_keys(tensor):
                share_T = np.ones_like(share_T)
            is_same_T = self.has_same_gradient.get(tensor, np.zeros(0, bool))
            share_T[: len(is_same_T)][is_same_T] = 0.0
            return share_T
        return np.minimum(
            1.0, self.relative(f"statistics/gradients/{tensor}", "gradients", at, at + 1)
        )

    def _may_hold_keys(self, tensor: str) -> bool:
        """Whether a tensor may be the bias of queries, keys and values together, or of two of them:
        the gradient of the keys' part is 0 but for rounding, however large that of the others is.
        """
        shapes = self.trace.shapes
        shape = shapes.get(tensor, ())
        if len(shape) != 1:
            return False
        layer = tensor.rpartition(".")[0]
        for name, of_matrix in shapes.items():
            if name.rpartition(".")[0] == layer and sorted(of_matrix)[1:] == [*shape]:
                return of_matrix[0] != of_matrix[1] and max(of_matrix) <= PACKED * min(of_matrix)
        return False

    def _bound_of_end(self, done: int, tensor: str, numbers: Array) -> Array:
        """The bounds of a parameter's summary: before training its numbers were only summed."""
        key = f"parameters/{tensor}"
        tail = sketch_tail(self.trace.shapes.get(tensor, ()))
        of_rms = of_largest = 0.0
        if done:
            at = np.array([done - 1])
            rms_errors, largest_errors = self._errors(key, at, numbers[None])
            of_rms, of_largest = float(rms_errors[0]), float(largest_errors[0])
        bound = np.full(len(numbers), tail * of_rms)
        bound[: len(STATISTICS)] = of_rms
        summed = SUMMED * abs(numbers[1])
        return np.where(np.arange(len(numbers)) == 2, of_largest, bound + summed)


def _layer(key: str) -> str:
    """A summarised tensor's family and layer."""
    prefix, _, tensor = split_name(f"statistics/{key}")
    return prefix.removeprefix("statistics/") + tensor.rpartition(".")[0]


def _filled(column: Array, rows: int) -> Array:
    """Absolute values, 0 for what is not finite and for rows that are missing."""
    finite = np.where(np.isfinite(column), np.abs(column), 0.0)
    return np.pad(finite, (0, rows - len(finite)))
