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
  which is too small for a training that amplifies.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from lockstep.diagnose.names import split_name
from lockstep.errors import InputError
from lockstep.oracle.arithmetic import BFLOAT16, SAFETY, Array, unit_roundoff
from lockstep.records.trace import Trace

__all__ = ["loop_bounds", "unit_of"]

CANCELLED = 1000.0  # 1 / (1 - 0.999)
NEIGHBOURS = 8  # updates on either side, as in `lockstep.oracle.rounding`
LAYERED = ("gradients", "clip", "moments")
JUDGED = ("updates/", "parameters/", "detail/", "statistics/")
COARSE = {"bfloat16": BFLOAT16, "float8": 2.0**-3}
"""Begin of a dtype's name that NumPy does not know -> its unit roundoff."""


def loop_bounds(a: Trace, b: Trace, noise: Iterable[Sequence[Trace]] = ()) -> dict[str, Array]:
    """Absolute bounds on the rounding of either of two loops, as `compare` takes them.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        noise: for one side or for both: reruns and perturbed runs of that side, in the names of
            `a`.

    Returns:
        Name of an array in a trace -> its bounds: (T,) for series, (T, 1) for statistics, () for
        tensors. Batches and learning rates, which take a few operations, have `SAFETY` u of the
        largest value. Initial parameters have none, as they must be the same.

    Raises:
        InputError: a side with a single run, or runs of one side that have no array in common with
            the traces.
    """
    names = [
        name
        for name in a.arrays
        if name.startswith(JUDGED) and not name.startswith("parameters/0/") and name in b.arrays
    ]
    sides = [list(side) for side in noise]
    sizes_a = _sizes(a)
    sizes_b = _sizes(b)
    bounds: dict[str, Array] = {}
    for name in names:
        bound = np.maximum(_first_order(a, sizes_a, name), _first_order(b, sizes_b, name))
        for side in sides:
            bound = np.maximum(bound, _spread(side, name))
        bounds[name] = bound
    for side in sides:
        if len(side) < 2:
            raise InputError("noise: a side needs two runs at least")
        if not any(name in trace.arrays for name in names for trace in side[1:]):
            raise InputError(
                "noise: the runs of a side have no array in common with the traces that are "
                "compared"
            )
    return bounds


def unit_of(trace: Trace) -> float:
    """Unit roundoff of the coarsest dtype that a loop computes in."""
    return max(map(_unit, trace.header.get("dtypes") or [trace.header["dtype"]]))


def _unit(dtype: str) -> float:
    for name, unit in COARSE.items():
        if dtype.startswith(name):
            return unit
    return unit_roundoff(dtype)


class _Sizes(NamedTuple):
    """What the first-order bounds of a loop are made of.

    Attributes:
        unit: unit roundoff of its computation.
        step: relative error of an update by its rounded hyperparameters.
        terms: the longest sum that the shapes show: the elements of a kernel that one output needs,
            or the rows of a batch.
        norm: 2-norm of the initial parameters.
        way_T: length of the way gone before each update and after the last, over `norm`.
        largest: the largest value of every layer's gradients, by what stands before the tensor in
            an array's name.
    """

    unit: float
    step: float
    terms: int
    norm: float
    way_T: Array
    largest: Mapping[str, float]


def _sizes(trace: Trace) -> _Sizes:
    initial = trace.parameters(0).values()
    squares = [np.square(array, dtype=np.float64).sum() for array in initial]
    norm = float(np.sqrt(sum(squares)))
    slots = {
        name.split("/")[3]
        for name in trace.arrays
        if name.startswith("detail/") and "/moments/" in name
    }
    step = _unit(trace.header["dtype"])
    if "second" in slots or not slots:
        step *= CANCELLED
    unmoved_T = np.zeros(trace.header["updates"])
    change_T = np.asarray(trace.arrays.get("updates/update_norm", unmoved_T), np.float64)
    gone_T = np.cumsum(np.where(np.isfinite(change_T), change_T, 0.0))
    largest: dict[str, float] = {}
    for name, array in trace.arrays.items():
        if split_name(name)[1] in LAYERED and array.size:
            layer = _layer(name)
            largest[layer] = max(largest.get(layer, 0.0), float(_finite(array).max()))
    return _Sizes(
        unit=unit_of(trace),
        step=step,
        terms=_longest_sum(trace),
        norm=norm,
        way_T=np.concatenate([[0.0], gone_T]) / (norm or 1.0),
        largest=largest,
    )


def _longest_sum(trace: Trace) -> int:
    """As `_Sizes.terms`."""
    longest = 1
    for array in trace.parameters(0).values():
        if array.ndim > 1 and array.size:
            longest = max(longest, array.size // min(array.shape))
    for name, array in trace.arrays.items():
        if split_name(name)[1] == "batch" and array.ndim:
            longest = max(longest, array.shape[0])
    return longest


def _layer(name: str) -> str:
    """An array's name without the last part of its tensor's."""
    prefix, _, tensor = split_name(name)
    return prefix + tensor.rpartition(".")[0]


def _finite(array: NDArray[Any]) -> Array:
    """Absolute values, 0 for what is not finite."""
    wide = np.abs(array.astype(np.float64))
    return np.where(np.isfinite(wide), wide, 0.0)


def _first_order(trace: Trace, sizes: _Sizes, name: str) -> Array:
    """The first-order bound of an array: that of one update, times the updates done."""
    array = _finite(trace.arrays[name])
    kind = name.partition("/")[0]
    family = split_name(name)[1]
    if family == "batch" or name.startswith("updates/lr"):
        return np.asarray(SAFETY * sizes.unit * array.max(initial=0.0))
    # the update that an array belongs to, counted from 0; parameters belong to the one that comes
    # next
    at: NDArray[np.int64]
    if kind in ("updates", "statistics"):
        at = np.arange(len(array))
    else:
        at = np.array(int(name.split("/")[1]))
    updates = at + (family != "parameters" or kind == "statistics")
    terms = min(sizes.terms, SAFETY * np.sqrt(sizes.terms))
    relative = sizes.unit * terms * updates + sizes.step * sizes.way_T[at]
    if family == "moments" or name == "updates/update_norm":
        relative = relative + sizes.step * updates
    if kind == "statistics":
        return np.asarray(relative[:, None] * array[:, 2:])
    if kind == "updates":
        # a change is that of rounded parameters, a loss the sum of terms that may be larger
        least = {"updates/update_norm": sizes.norm, "updates/loss": 1.0}.get(name, 0.0)
        return np.asarray(sizes.unit * least * updates + relative * array)
    if family in LAYERED:
        bound = relative * sizes.largest.get(_layer(name), 0.0)
    else:
        bound = relative * array.max(initial=0.0)
    initial = trace.arrays.get(f"parameters/0/{name.split('/', 2)[2]}")
    if family == "parameters" and initial is not None:
        # a bias that was 0 has gone further than it is large
        gone = _finite(trace.arrays[name].astype(np.float64) - initial).max(initial=0.0)
        bound = bound + sizes.step * updates * gone
    return np.asarray(bound)


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
    if name.startswith("statistics/"):
        widest = maximum_filter1d(gap, width, axis=0, mode="nearest")
        return np.asarray(SAFETY * widest.max(1, keepdims=True))
    return np.asarray(SAFETY * gap.max(initial=0.0))


def _distance(array: NDArray[Any], first: NDArray[Any]) -> Array:
    """|array - first|: 0 where both are the same or NaN, infinite where it is not finite."""
    with np.errstate(all="ignore"):
        gap = np.abs(array.astype(np.float64) - first)
        same = (array == first) | (np.isnan(array) & np.isnan(first))
    return np.where(same, 0.0, np.where(np.isfinite(gap), gap, np.inf))
