"""Bounds for a loop without an oracle: from the size of a rounding, and from runs of the loop that
were repeated or begun one unit in the last place away.

A bound on |a run - the same run without rounding| is the larger of two:

- **first order**: a sum of n products errs by up to n u times the sum of their sizes, u being the
  unit roundoff (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), and
  hardly ever by more than a few sqrt(n) u of it (Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019).
  The smaller of n and `SAFETY` sqrt(n) counts. n is the longest sum that the shapes show: a row of
  a kernel, or the rows of a batch. The sizes of the products are not known. The largest element of
  the tensor stands for them; for gradients that of the whole layer, since a bias's gradient may
  cancel where its kernel's does not. Every update rounds anew, so that the bound of one is
  multiplied by the updates done. Hyperparameters are rounded too: float32 keeps three digits less
  of 1 - 0.999, the default beta2 of Adam and its kin, than of other numbers. Second moments and
  steps may then be off by 1000 u of their size, and everything after them by as much of the way
  that the parameters have gone.
- **measured**: the farthest that any of several runs of one side strays from the first, times
  `SAFETY`. A rerun shows what is not deterministic (threads, atomics); a perturbed start shows
  whether this training amplifies rounding. Without such runs only the first-order bound is left,
  which is too small for a training that amplifies. With them the roundings of T updates add as
  independent ones do, to sqrt(T) of one, as the spread tells what the training makes of them.

Each array is judged by its own dtype. What a layer computes in bfloat16 or float16 is rounded once
a layer, since its products are summed in float32: after m such layers by `SAFETY` sqrt(m) u.
Losses, gradients and moments inherit that; parameters, rates and batches do not.

Two more terms follow from what the two sides recorded:

- **the way to here**: what the parameters of the two sides already differ by reaches all that is
  computed from them. Over the norm of each layer's parameters it bounds the relative difference of
  outputs and gradients, times `SAFETY`.
- **gradients within their bound of 0** (`lockstep.diagnose.unsure`): an optimizer may make a full
  step of them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from lockstep.diagnose.names import split_name
from lockstep.diagnose.summaries import (
    LAYERED,
    SUMMARIES,
    SummaryBounds,
    distances_by_sketches,
    initial_norm,
    same_gradients,
    same_updates,
)
from lockstep.diagnose.units import (
    FLOAT32,
    coarsest_dtype,
    dtype_of,
    unit_of_dtype,
    unit_of_rate,
)
from lockstep.diagnose.unsure import unsure_steps
from lockstep.errors import InputError
from lockstep.oracle.arithmetic import SAFETY, Array
from lockstep.records.trace import Trace

__all__ = ["LoopBounds", "loop_bounds"]

AVERAGED = 2.0
"""In place of `SAFETY` for a mean or a norm over many elements: even where all roundings of a layer
agree, their root mean square is u / sqrt(3), and three times that of them all is below 2 u."""
CANCELLED = 1000.0  # 1 / (1 - 0.999)
NEIGHBOURS = 8  # updates on either side, as in `lockstep.oracle.rounding`
JUDGED = ("updates/", "parameters/", "detail/", *SUMMARIES)


class LoopBounds(dict[str, Array]):
    """Name of an array -> absolute bounds on the rounding of either side.

    Attributes:
        set_aside: tensor -> how many of its elements part by steps that say nothing, as their
            gradients may be 0, and of how many.
        low: the low dtype that a side computes in, such as "bfloat16"; "" where there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.set_aside: dict[str, tuple[int, int]] = {}
        self.low = ""


def loop_bounds(a: Trace, b: Trace, noise: Iterable[Sequence[Trace]] = ()) -> LoopBounds:
    """Absolute bounds on the rounding of either of two loops, as `compare` takes them.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        noise: for one side or for both: reruns and perturbed runs of that side, in the names of
            `a`.

    Returns:
        Name of an array in a trace -> its bounds: (T,) for series, (T, 3) for statistics, (T, 1)
        for sketches, () for tensors, or the tensor's shape where its elements have bounds of their
        own. Batches and learning rates, which take a few operations, have `SAFETY` u of the largest
        value. Initial parameters have none, as they must be the same.

    Raises:
        InputError: a side with a single run, or runs of one side that have no array in common with
            the traces.
    """
    names = [
        name
        for name in a.arrays
        if name.startswith(JUDGED) and not name.startswith("parameters/0/") and name in b.arrays
    ]
    runs = [list(side) for side in noise]
    for side in runs:
        if len(side) < 2:
            raise InputError("noise: a side needs two runs at least")
        if not any(name in trace.arrays for name in names for trace in side[1:]):
            raise InputError(
                "noise: the runs of a side have no array in common with the traces that are "
                "compared"
            )
    apart_T = _apart(a, b)
    same = same_updates(a, b)
    gradients = same_gradients(a, b)
    sides = [
        _FirstOrder(trace, apart_T, same, gradients, is_measured=bool(runs)) for trace in (a, b)
    ]
    bounds = LoopBounds()
    bounds.low = max((side.low for side in sides), key=unit_of_dtype)
    for name in names:
        bounds[name] = np.max([side.bound(name) for side in sides], axis=0)
        for side in runs:
            bounds[name] = np.maximum(bounds[name], _spread(side, name))
    unsure = unsure_steps(a, b, bounds)
    for name, more in unsure.bounds.items():
        bounds[name] = bounds[name] + more
    bounds.set_aside = unsure.set_aside
    return bounds


def _apart(a: Trace, b: Trace) -> Array:
    """How far the two sides' parameters are apart, before each update and after the last: the norm
    of the difference of each layer over that of its parameters, 1 at most, as the root of the sum
    of their squares. An update whose parameters were not recorded has what the last before it had.
    """
    updates = int(a.header["updates"])
    buffers = {*a.header["buffers"], *b.header["buffers"]}
    apart_T = np.zeros(updates + 1)
    for done in range(1, updates + 1):
        tensors_a = a.parameters(done)
        tensors_b = b.parameters(done)
        squares: dict[str, Array] = {}
        for name in (tensors_a.keys() & tensors_b.keys()) - buffers:
            mine = tensors_a[name].astype(np.float64)
            if mine.shape == tensors_b[name].shape:
                gap = np.square(tensors_b[name] - mine).sum()
                sums = np.array([gap, np.square(mine).sum()])
                layer = name.rpartition(".")[0]
                squares[layer] = squares.get(layer, 0.0) + sums
        if not squares:
            for name, sums in distances_by_sketches(a, b, done - 1).items():
                layer = name.rpartition(".")[0]
                squares[layer] = squares.get(layer, 0.0) + sums * (name not in buffers)
        shares = [min(gap / size, 1.0) for gap, size in squares.values() if size]
        known = bool(squares) and np.isfinite(shares).all()
        apart_T[done] = np.sqrt(sum(shares)) if known else apart_T[done - 1]
    return apart_T


class _FirstOrder:
    """The first-order bounds of one loop.

    Args:
        trace: the loop's.
        apart_T: how far the two sides' parameters are apart, before each update and after the last.
        same: the updates of which both sides have the same bits: roundings add up from there.
        same_gradients: parameter -> at which updates (T,) its gradient has the same bits.
        is_measured: whether reruns tell what the training makes of its roundings.

    Attributes:
        low: the low dtype that the loop computes in, or "".
        unit: unit roundoff of all that is not computed in it.
        step: relative error of an update by its rounded hyperparameters.
        terms: the longest sum that the shapes show.
        norm: 2-norm of the initial parameters.
        way_T: length of the way gone before each update and after the last, over `norm`.
        largest: the largest value of every layer's gradients, by what stands before the tensor in
            an array's name.
    """

    def __init__(
        self,
        trace: Trace,
        apart_T: Array,
        same: int,
        same_gradients: Mapping[str, NDArray[np.bool_]],
        *,
        is_measured: bool,
    ) -> None:
        self.trace = trace
        self.apart_T = apart_T
        self.same = same
        self.is_measured = is_measured
        coarsest = coarsest_dtype(trace)
        self.low = coarsest if unit_of_dtype(coarsest) > FLOAT32 else ""
        self.unit = min(unit_of_dtype(trace.header["dtype"]), FLOAT32)
        self.step = self.unit * (CANCELLED if _has_second_moments(trace) else 1.0)
        self.terms = _longest_sum(trace)
        self.norm = initial_norm(trace)
        unmoved_T = np.zeros(trace.header["updates"])
        change_T = np.asarray(trace.arrays.get("updates/update_norm", unmoved_T), np.float64)
        change_T = np.where(np.arange(len(change_T)) < same, 0.0, change_T)
        gone_T = np.cumsum(np.where(np.isfinite(change_T), change_T, 0.0))
        self.way_T = np.concatenate([[0.0], gone_T]) / (self.norm or 1.0)
        self.summaries = SummaryBounds(
            trace,
            same=same,
            has_same_gradient=same_gradients,
            step=self.step,
            coarser=lambda tensor: self._coarser(self._dtype_of_parameter(tensor)),
            relative=self._relative,
        )

    def bound(self, name: str) -> Array:
        """The bound of an array: that of one update, times what the updates done make of it."""
        trace = self.trace
        if name.startswith(SUMMARIES):
            return self.summaries.bound(name)
        array = _finite(trace.arrays[name])
        kind = name.partition("/")[0]
        family = split_name(name)[1]
        if name.startswith("updates/lr"):
            return np.asarray(SAFETY * unit_of_rate(trace, name) * array.max(initial=0.0))
        if family == "batch":
            unit = unit_of_dtype(dtype_of(trace, name))
            return np.asarray(SAFETY * unit * array.max(initial=0.0))
        # the update that an array belongs to, counted from 0; parameters belong to the one that
        # comes next
        at = np.arange(len(array)) if kind == "updates" else np.array(int(name.split("/")[1]))
        updates = at + (family != "parameters")
        relative = self._relative(name, family, at, updates)
        if kind == "updates":
            # a change is that of rounded parameters, a loss the sum of terms that may be larger
            least = {"updates/update_norm": self.norm, "updates/loss": 1.0}.get(name, 0.0)
            size = np.maximum(array, self._loss_size(array)) if name == "updates/loss" else array
            return np.asarray(self.unit * least * updates + relative * size)
        if family in LAYERED:
            return np.asarray(relative * self.largest.get(_layer(name), 0.0))
        bound = relative * array.max(initial=0.0)
        initial = trace.arrays.get(f"parameters/0/{name.split('/', 2)[2]}")
        if family == "parameters" and initial is not None:
            # a bias that was 0 has gone further than it is large
            gone = _finite(trace.arrays[name].astype(np.float64) - initial).max(initial=0.0)
            kept_low = self._coarser(dtype_of(trace, name)) * updates * array.max(initial=0.0)
            bound = bound + self.step * updates * gone + kept_low
        return np.asarray(bound)

    def _relative(
        self, name: str, family: str, at: NDArray[np.int64], updates: NDArray[np.int64]
    ) -> Array:
        """The bound on a relative error at the updates `at`, after so many updates."""
        terms = min(self.terms, SAFETY * np.sqrt(self.terms))
        updates = np.maximum(updates - self.same, np.minimum(updates, 1))
        growth = np.sqrt(updates) if self.is_measured else updates
        relative = self.unit * terms * growth + self.step * self.way_T[at]
        if family == "moments" or name == "updates/update_norm":
            relative = relative + self.step * growth
        if family == "parameters" and split_name(name)[2] not in self.trace.header["buffers"]:
            return np.asarray(relative)
        low = 0.0
        if self.low:
            times_rms = AVERAGED if name.startswith("updates/") else SAFETY
            low = times_rms * unit_of_dtype(self.low) * np.sqrt(self._low_layers(name, family))
        times = 2 if "/moments/second/" in name else 1
        # running statistics are of the forward pass before the parameters they stand beside
        is_detail = family == "parameters" and not name.startswith(SUMMARIES)
        apart = self.apart_T[at - 1 if is_detail else at]
        return np.asarray(relative + times * (low + SAFETY * apart))

    def _coarser(self, dtype: str) -> float:
        """The unit roundoff of the dtype that parameters are kept in, beyond the arithmetic's."""
        return max(unit_of_dtype(dtype) - self.unit, 0.0)

    def _dtype_of_parameter(self, tensor: str) -> str:
        """The dtype of a parameter that was summarised."""
        widened = self.trace.header.get("array_dtypes", {})
        return str(widened.get(f"parameters/{tensor}", self.trace.header["dtype"]))

    def _loss_size(self, loss_T: Array) -> Array:
        """The size to which the low roundings of a loss are relative, at least: those of the last
        layer's outputs z reach a squared error as sqrt(loss) |z|, and a cross-entropy as less.
        """
        layers = list(self.trace.header.get("layers", []))
        if not self.low or not layers:
            return np.zeros_like(loss_T)
        z = self.trace.arrays.get(f"detail/0/forward/{layers[-1]}", np.zeros(1))
        statistics = self.trace.arrays.get(f"statistics/forward/{layers[-1]}")
        rms = np.sqrt(np.square(_finite(z)).mean())
        if not rms and statistics is not None:
            rms = _finite(statistics)[:1, 1].max(initial=0.0)
        return np.asarray(rms * np.sqrt(loss_T))

    def _low_layers(self, name: str, family: str) -> int:
        """How many roundings to the low dtype, one a layer, lead to an array."""
        layers = self.low_layers
        if family != "forward":
            # back through each layer as well, and the loss
            return (1 if name == "updates/loss" else 2) * len(layers) + 1
        order = list(self.trace.header.get("layers", []))
        tensor = split_name(name)[2]
        if tensor not in order:
            return len(layers) + 1
        before = set(order[: order.index(tensor) + 1])
        return sum(layer in before for layer in layers)

    @cached_property
    def low_layers(self) -> frozenset[str]:
        """The layers whose outputs are of a low dtype at some update, or may be made of products in
        one.
        """
        layers = set()
        for name in self.trace.arrays:
            _, family, tensor = split_name(name)
            if family != "forward" or not name.startswith(("detail/", "statistics/")):
                continue
            is_low = unit_of_dtype(dtype_of(self.trace, name)) > FLOAT32
            if is_low or self._may_multiply(tensor, name):
                layers.add(tensor)
        return frozenset(layers)

    def _may_multiply(self, layer: str, name: str) -> bool:
        """Whether a layer has a matrix, and does not only look up its rows, as its output of this
        name in the trace shows.
        """
        output = self.trace.arrays[name]
        if name.startswith("statistics/"):
            shapes = self.trace.shapes.items()
            return any(key.rpartition(".")[0] == layer and len(shape) > 1 for key, shape in shapes)
        matrices = [
            matrix
            for name, matrix in self.trace.parameters(0).items()
            if name.rpartition(".")[0] == layer and matrix.ndim > 1
        ]
        if not matrices or not output.size or not output.ndim:
            return False
        row = output.reshape(-1, output.shape[-1])[0]
        return not any(
            matrix.shape[1:] == row.shape and (matrix == row).all(axis=-1).any()
            for matrix in matrices
        )

    @cached_property
    def largest(self) -> dict[str, float]:
        """As the attribute."""
        largest: dict[str, float] = {}
        for name, array in self.trace.arrays.items():
            if split_name(name)[1] in LAYERED and array.size:
                layer = _layer(name)
                largest[layer] = max(largest.get(layer, 0.0), float(_finite(array).max()))
        return largest


def _has_second_moments(trace: Trace) -> bool:
    """Whether the optimizer has second moments, or did not record what it has."""
    slots = {
        name.partition("/moments/")[2].partition("/")[0]
        for name in trace.arrays
        if name.startswith(("detail/", "statistics/")) and "/moments/" in name
    }
    return "second" in slots or not slots


def _longest_sum(trace: Trace) -> int:
    """The elements of a kernel that one output needs, or the rows of a batch."""
    longest = 1
    for shape in trace.shapes.values():
        size = math.prod(shape)
        if len(shape) > 1 and size:
            longest = max(longest, size // min(shape))
    for name, array in trace.arrays.items():
        if split_name(name)[1] == "batch" and array.ndim:
            longest = max(longest, array.shape[0])
    for name, outputs in trace.header.get("shapes", {}).items():
        if name.startswith("forward/") and outputs:
            longest = max(longest, int(outputs[0]))
    return longest


def _layer(name: str) -> str:
    """An array's name without the last part of its tensor's."""
    prefix, _, tensor = split_name(name)
    return prefix + tensor.rpartition(".")[0]


def _finite(array: NDArray[Any]) -> Array:
    """Absolute values, 0 for what is not finite."""
    wide = np.abs(array.astype(np.float64))
    return np.where(np.isfinite(wide), wide, 0.0)


def _spread(side: Sequence[Trace], name: str) -> Array:
    """The farthest that the runs of a side stray from the first of them, times SAFETY. In a series
    the widest near an update counts.
    """
    first = side[0].arrays.get(name)
    others = [trace.arrays[name] for trace in side[1:] if name in trace.arrays]
    if first is None or not others or any(other.shape != first.shape for other in others):
        return np.zeros(())
    gap = np.max([_distance(other, first) for other in others], axis=0)
    width = 2 * NEIGHBOURS + 1
    if name.startswith("updates/"):
        return np.asarray(SAFETY * maximum_filter1d(gap, width, mode="nearest"))
    if name.startswith(("statistics/", "sketches/")):
        widest = maximum_filter1d(gap, width, axis=0, mode="nearest")
        return np.asarray(SAFETY * widest.max(1, keepdims=True))
    return np.asarray(SAFETY * gap.max(initial=0.0))


def _distance(array: NDArray[Any], first: NDArray[Any]) -> Array:
    """|array - first|: 0 where both are the same or NaN, infinite where it is not finite."""
    with np.errstate(all="ignore"):
        gap = np.abs(array.astype(np.float64) - first)
        same = (array == first) | (np.isnan(array) & np.isnan(first))
    return np.where(same, 0.0, np.where(np.isfinite(gap), gap, np.inf))
