"""Bounds for a loop without an oracle: from its own reruns and from runs whose start was moved by one unit in the last
place, and from the size of a rounding.

A bound on |a run - the same run without rounding| is the larger of two:

- **first order**: an element that is a sum of n products errs by up to n u times the sum of their sizes, u being the
  unit roundoff (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), and hardly ever by more
  than a few sqrt(n) u of it (Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019); the smaller of n and `SAFETY` sqrt(n)
  counts. n is the longest sum that the shapes show, of a row of a kernel or over a batch; the sizes are not known, and
  the largest element of the tensor stands for them. Every update rounds anew: the bound of one is multiplied by the
  updates done. A hyperparameter is rounded too: of 1 - 0.999, the beta that optimizers come with, float32 keeps three
  digits less than of other numbers, so that moments and steps may be off by 1000 u of their size.
- **measured**: the farthest that any of several runs of one side strays from the first, times `SAFETY`. A rerun shows
  what is not deterministic (threads, atomics), a perturbed start whether this training amplifies rounding. Without
  such runs the first-order bound is all there is, and too small for a training that does.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from lockstep.diagnose.names import split_name
from lockstep.errors import InputError
from lockstep.oracle.arithmetic import BFLOAT16, SAFETY, unit_roundoff
from lockstep.trace import Trace

__all__ = ["loop_bounds", "unit_of"]

CANCELLED = 1000.0  # 1 / (1 - 0.999)
NEIGHBOURS = 8  # updates on either side, as in `lockstep.oracle.rounding`
JUDGED = ("updates/", "parameters/", "detail/", "statistics/")


def loop_bounds(a: Trace, b: Trace, noise: Iterable[Sequence[Trace]] = ()) -> dict[str, NDArray[np.float64]]:
    """Absolute bounds on what either of two loops may be off, as `compare` takes them.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        noise: for one side or for both: reruns and perturbed runs of that side, in the names of `a`.

    Returns:
        named as in a trace: (T,) for series, (T, 1) for statistics, () for tensors. Of batches and learning rates,
        which a few operations make, `SAFETY` u of the largest value. Initial parameters have none, as they
        must be the same.

    Raises:
        InputError: a side with a single run, or runs of one side that have no array in common.
    """
    names = [name for name in a.arrays if name.startswith(JUDGED) and name in b.arrays]
    names = [name for name in names if not name.startswith("parameters/0/")]
    sides = [list(side) for side in noise]
    bounds: dict[str, NDArray[np.float64]] = {}
    sized = [(trace, _sizes(trace)) for trace in (a, b)]
    for name in names:
        floor = np.maximum(*(_first_order(trace, size, name) for trace, size in sized))
        bounds[name] = np.maximum(floor, np.max([_spread(side, name) for side in sides] or [0.0 * floor], axis=0))
    for side in sides:
        if len(side) < 2:
            raise InputError("noise: a side needs two runs at least")
        if not any(name in trace.arrays for name in names for trace in side[1:]):
            raise InputError("noise: the runs of a side have no array in common with the traces that are compared")
    return bounds


def unit_of(trace: Trace) -> float:
    """Unit roundoff of the coarsest dtype that a loop computes in."""
    return max(map(_unit, trace.header.get("dtypes") or [trace.header["dtype"]]))


def _unit(dtype: str) -> float:
    coarse = {"bfloat16": BFLOAT16, "float8": 2.0**-3}
    return next((unit for name, unit in coarse.items() if dtype.startswith(name)), None) or unit_roundoff(dtype)


class _Sizes(NamedTuple):
    """Of a loop: unit roundoffs of its computation and of its parameters, the longest sum that the shapes show (the
    elements of a kernel that one output needs, the rows of a batch), and the 2-norm of the initial parameters."""

    unit: float
    stored: float
    terms: int
    norm: float


def _sizes(trace: Trace) -> _Sizes:
    initial = trace.parameters(0).values()
    lengths = [array.size // min(array.shape) for array in initial if array.ndim > 1 and array.size]
    rows = [array.shape[0] for name, array in trace.arrays.items() if split_name(name)[1] == "batch" and array.ndim]
    norm = float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in initial)))
    return _Sizes(unit_of(trace), _unit(trace.header["dtype"]), max(lengths + rows, default=1), norm)


def _first_order(trace: Trace, sizes: _Sizes, name: str) -> NDArray[np.float64]:
    """The first-order bound of an array: that of one update, times the updates done."""
    array = np.abs(trace.arrays[name].astype(np.float64))
    array = np.where(np.isfinite(array), array, 0.0)
    kind, family = name.partition("/")[0], split_name(name)[1]
    if family == "batch" or name.startswith("updates/lr"):
        return np.asarray(SAFETY * sizes.unit * array.max(initial=0.0))
    relative = sizes.unit * min(sizes.terms, SAFETY * np.sqrt(sizes.terms))
    if family == "moments" or name == "updates/update_norm":
        relative += CANCELLED * sizes.stored
    if kind in ("updates", "statistics"):
        # a change is that of rounded parameters, a loss the sum of terms that may be larger
        least = sizes.unit * {"updates/update_norm": sizes.norm, "updates/loss": 1.0}.get(name, 0.0)
        floor = least + relative * (array if kind == "updates" else array[:, 2:])
        done = np.arange(1, len(floor) + 1).reshape(-1, *[1] * (floor.ndim - 1))
    else:
        floor = np.asarray(relative * array.max(initial=0.0))
        done = np.asarray(int(name.split("/")[1]) + (kind == "detail"))
        initial = trace.arrays.get(f"parameters/0/{name.split('/', 2)[2]}")
        if family == "parameters" and initial is not None:
            change = np.abs(trace.arrays[name].astype(np.float64) - initial)
            floor = floor + CANCELLED * sizes.stored * np.where(np.isfinite(change), change, 0.0).max(initial=0.0)
    return np.asarray(floor * done)


def _spread(side: Sequence[Trace], name: str) -> NDArray[np.float64]:
    """SAFETY times what the runs of a side stray from the first of them; of a series, by the widest near an update."""
    first = side[0].arrays.get(name)
    others = [trace.arrays[name] for trace in side[1:] if name in trace.arrays]
    if first is None or not others or any(other.shape != first.shape for other in others):
        return np.zeros(())
    with np.errstate(all="ignore"):
        gaps = [np.abs(other.astype(np.float64) - first) for other in others]
        same = [(other == first) | (np.isnan(other) & np.isnan(first)) for other in others]
    gap = np.max([np.where(s, 0.0, np.where(np.isfinite(g), g, np.inf)) for s, g in zip(same, gaps)], axis=0)
    if name.startswith("updates/"):
        return np.asarray(SAFETY * maximum_filter1d(gap, 2 * NEIGHBOURS + 1, mode="nearest"))
    if name.startswith("statistics/"):
        return np.asarray(
            SAFETY * maximum_filter1d(gap, 2 * NEIGHBOURS + 1, axis=0, mode="nearest").max(1, keepdims=True)
        )
    return np.asarray(SAFETY * gap.max(initial=0.0))
