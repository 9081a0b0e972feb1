"""Bounds for a loop without an oracle: from its own reruns and from runs whose start was moved by
one unit in the last place, and from the size of a rounding.

A bound on |a run - the same run without rounding| is the larger of two:

- **first order**: an element that is a sum of n products errs by up to n u times the sum of their
  sizes, u being the unit roundoff (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
  section 3.1), and hardly ever by more than a few sqrt(n) u of it (Higham & Mary, SIAM J. Sci.
  Comput. 41(5), 2019); the smaller of n and `SAFETY` sqrt(n) counts. n is the longest sum that the
  shapes show, of a row of a kernel or over a batch; the sizes are not known, and the largest
  element of the tensor stands for them, or of its whole layer for gradients, as that of a bias may
  cancel where its kernel's does not. Every update rounds anew: the bound of one is multiplied by
  the
  updates done. A hyperparameter is rounded too: of 1 - 0.999, the beta that Adam's kin come with,
  float32 keeps three digits less than of other numbers, so that second moments and steps may be off
  by 1000 u of their size, and all that comes after them by as much of the way that the parameters
  have gone.
- **measured**: the farthest that any of several runs of one side strays from the first, times
  `SAFETY`. A rerun shows what is not deterministic (threads, atomics), a perturbed start whether
  this training amplifies rounding. Without
  such runs the first-order bound is all there is, and too small for a training that does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from lockstep.diagnose.names import split_name
from lockstep.errors import InputError
from lockstep.oracle.arithmetic import BFLOAT16, SAFETY, unit_roundoff
from lockstep.records.trace import Trace

__all__ = ["loop_bounds", "unit_of"]

CANCELLED = 1000.0  # 1 / (1 - 0.999)
NEIGHBOURS = 8  # updates on either side, as in `lockstep.oracle.rounding`
LAYERED = ("gradients", "clip", "moments")
JUDGED = ("updates/", "parameters/", "detail/", "statistics/")


def loop_bounds(
    a: Trace, b: Trace, noise: Iterable[Sequence[Trace]] = ()
) -> dict[str, NDArray[np.float64]]:
    """Absolute bounds on what either of two loops may be off, as `compare` takes them.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        noise: for one side or for both: reruns and perturbed runs of that side, in the names of
        `a`.

    Returns:
        named as in a trace: (T,) for series, (T, 1) for statistics, () for tensors. Of batches and
        learning rates, which a few operations make, `SAFETY` u of the largest value. Initial
        parameters have none, as they
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
        bounds[name] = np.maximum(
            floor, np.max([_spread(side, name) for side in sides] or [0.0 * floor], axis=0)
        )
    for side in sides:
        if len(side) < 2:
            raise InputError("noise: a side needs two runs at least")
        if not any(name in trace.arrays for name in names for trace in side[1:]):
            raise InputError(
                "noise: the runs of a side have no array in common with the traces that "
                "are compared"
            )
    return bounds


def unit_of(trace: Trace) -> float:
    """Unit roundoff of the coarsest dtype that a loop computes in."""
    return max(map(_unit, trace.header.get("dtypes") or [trace.header["dtype"]]))


def _unit(dtype: str) -> float:
    coarse = {"bfloat16": BFLOAT16, "float8": 2.0**-3}
    return next(
        (unit for name, unit in coarse.items() if dtype.startswith(name)), None
    ) or unit_roundoff(dtype)


class _Sizes(NamedTuple):
    """Of a loop: unit roundoff of its computation; relative error of a step by its rounded
    hyperparameters; the longest sum that the shapes show (the elements of a kernel that one output
    needs, the rows of a batch); the 2-norm of the initial parameters; relative to it, the length of
    the way gone before each update and after the last; and the largest value of every layer's
    gradients, by what stands before the tensor in an array's name."""

    unit: float
    step: float
    terms: int
    norm: float
    way_T: NDArray[np.float64]
    largest: Mapping[str, float]


def _sizes(trace: Trace) -> _Sizes:
    initial = trace.parameters(0).values()
    lengths = [array.size // min(array.shape) for array in initial if array.ndim > 1 and array.size]
    rows = [
        array.shape[0]
        for name, array in trace.arrays.items()
        if split_name(name)[1] == "batch" and array.ndim
    ]
    norm = float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in initial)))
    moments = {
        name.split("/")[3]
        for name in trace.arrays
        if name.startswith("detail/") and "/moments/" in name
    }
    step = _unit(trace.header["dtype"]) * (CANCELLED if "second" in moments or not moments else 1.0)
    change_T = np.asarray(
        trace.arrays.get("updates/update_norm", np.zeros(trace.header["updates"])), np.float64
    )
    way_T = np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(change_T), change_T, 0.0))])
    largest: dict[str, float] = {}
    for name, array in trace.arrays.items():
        if split_name(name)[1] in LAYERED and array.size:
            largest[_layer(name)] = max(largest.get(_layer(name), 0.0), float(_finite(array).max()))
    return _Sizes(
        unit_of(trace), step, max(lengths + rows, default=1), norm, way_T / (norm or 1.0), largest
    )


def _layer(name: str) -> str:
    """An array's name without the last part of its tensor's."""
    prefix, _, tensor = split_name(name)
    return prefix + tensor.rpartition(".")[0]


def _finite(array: NDArray[Any]) -> NDArray[np.float64]:
    """Absolute values, 0 for what is not finite."""
    wide = np.abs(array.astype(np.float64))
    return np.where(np.isfinite(wide), wide, 0.0)


def _first_order(trace: Trace, sizes: _Sizes, name: str) -> NDArray[np.float64]:
    """The first-order bound of an array: that of one update, times the updates done."""
    array = _finite(trace.arrays[name])
    kind, family = name.partition("/")[0], split_name(name)[1]
    if family == "batch" or name.startswith("updates/lr"):
        return np.asarray(SAFETY * sizes.unit * array.max(initial=0.0))
    # of the update that an array belongs to, counted from 0; parameters belong to the one that
    # comes next
    at = (
        np.arange(len(array))
        if kind in ("updates", "statistics")
        else np.array(int(name.split("/")[1]))
    )
    done = at + (family != "parameters" or kind == "statistics")
    relative = (
        sizes.unit * min(sizes.terms, SAFETY * np.sqrt(sizes.terms)) * done
        + sizes.step * sizes.way_T[at]
    )
    if family == "moments" or name == "updates/update_norm":
        relative = relative + sizes.step * done
    if kind == "statistics":
        return np.asarray(relative[:, None] * array[:, 2:])
    if kind == "updates":
        # a change is that of rounded parameters, a loss the sum of terms that may be larger
        least = sizes.unit * {"updates/update_norm": sizes.norm, "updates/loss": 1.0}.get(name, 0.0)
        return np.asarray(least * done + relative * array)
    bound = relative * (
        sizes.largest.get(_layer(name), 0.0) if family in LAYERED else array.max(initial=0.0)
    )
    initial = trace.arrays.get(f"parameters/0/{name.split('/', 2)[2]}")
    if (
        family == "parameters" and initial is not None
    ):  # a bias that was 0 has gone further than it is large
        bound += (
            sizes.step
            * done
            * _finite(trace.arrays[name].astype(np.float64) - initial).max(initial=0.0)
        )
    return np.asarray(bound)


def _spread(side: Sequence[Trace], name: str) -> NDArray[np.float64]:
    """SAFETY times what the runs of a side stray from the first of them; of a series, by the widest
    near an update.
    """
    first = side[0].arrays.get(name)
    others = [trace.arrays[name] for trace in side[1:] if name in trace.arrays]
    if first is None or not others or any(other.shape != first.shape for other in others):
        return np.zeros(())
    with np.errstate(all="ignore"):
        gaps = [np.abs(other.astype(np.float64) - first) for other in others]
        same = [(other == first) | (np.isnan(other) & np.isnan(first)) for other in others]
    gap = np.max(
        [np.where(s, 0.0, np.where(np.isfinite(g), g, np.inf)) for s, g in zip(same, gaps)], axis=0
    )
    if name.startswith("updates/"):
        return np.asarray(SAFETY * maximum_filter1d(gap, 2 * NEIGHBOURS + 1, mode="nearest"))
    if name.startswith("statistics/"):
        return np.asarray(
            SAFETY
            * maximum_filter1d(gap, 2 * NEIGHBOURS + 1, axis=0, mode="nearest").max(
                1, keepdims=True
            )
        )
    return np.asarray(SAFETY * gap.max(initial=0.0))
