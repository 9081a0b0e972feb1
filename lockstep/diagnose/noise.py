"""Bounds for a loop without an oracle: from its own reruns and from runs whose start was moved by one unit in the last
place, or, where there are none, from the size of a rounding alone.

Two sources add up to a bound on |a run - the same run without rounding|:

- **measured**: the farthest that any run of the same side strays from the first, times `SAFETY`. A rerun shows what is
  not deterministic (threads, atomics), a perturbed start how far rounding is carried by this very training;
- **first order**: an element that is a sum of n products errs by up to n u times the sum of their sizes, u being the
  unit roundoff (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). n is the longest sum
  that the shapes show, of a row of a kernel or over a batch; the sizes are not known and the largest element of the
  tensor stands for them. It is what one update may differ by, and the least that a bound is: few runs may agree by
  chance.

Without any measured run a bound is the first-order one, times the updates done: errors are assumed to add up. That
is a guess where a training amplifies them; a few perturbed runs replace it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from lockstep.errors import InputError
from lockstep.oracle.arithmetic import BFLOAT16, SAFETY, unit_roundoff
from lockstep.trace import Trace

__all__ = ["loop_bounds", "unit_of"]

NEIGHBOURS = 8  # updates on either side, as in `lockstep.oracle.rounding`
JUDGED = ("updates/", "parameters/", "detail/", "statistics/")


def loop_bounds(a: Trace, b: Trace, noise: Iterable[Sequence[Trace]] = ()) -> dict[str, NDArray[np.float64]]:
    """Absolute bounds on what either of two loops may be off, as `compare` takes them.

    Args:
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        noise: for one side or for both: runs of that side, in the names of `a`, the first unperturbed.

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
    for name in names:
        floor = np.maximum(*(_first_order(trace, name, grows=not sides) for trace in (a, b)))
        bounds[name] = np.maximum(floor, np.max([_spread(side, name) for side in sides] or [0.0 * floor], axis=0))
    for side in sides:
        if len(side) < 2:
            raise InputError("noise: a side needs two runs at least: one as it is, and a rerun or a perturbed one")
        if not any(name in trace.arrays for name in names for trace in side[1:]):
            raise InputError("noise: the runs of a side have no array in common with the traces that are compared")
    return bounds


def unit_of(trace: Trace) -> float:
    """Unit roundoff of the coarsest dtype that a loop computes in."""
    dtypes = trace.header.get("dtypes") or [trace.header["dtype"]]
    units = {"bfloat16": BFLOAT16, "float8": 2.0**-3}
    return max(next((u for name, u in units.items() if d.startswith(name)), None) or unit_roundoff(d) for d in dtypes)


def _longest_sum(trace: Trace) -> int:
    """The most terms that the shapes show in one sum: the elements of a kernel that one output needs, the rows of a
    batch."""
    lengths = [array.size // min(array.shape) for array in trace.parameters(0).values() if array.ndim > 1]
    rows = [a.shape[0] for name, a in trace.arrays.items() if "/batch/" in name or "/forward/" in name if a.ndim]
    return max(lengths + rows, default=1)


def _first_order(trace: Trace, name: str, grows: bool) -> NDArray[np.float64]:
    unit, array = unit_of(trace), np.abs(trace.arrays[name].astype(np.float64))
    finite = np.where(np.isfinite(array), array, 0.0)
    kind, _, rest = name.partition("/")
    if name.startswith("updates/lr") or "/batch/" in name:
        return np.asarray(SAFETY * unit * finite.max(initial=0.0))
    terms = _longest_sum(trace)
    if kind in ("updates", "statistics"):
        floor = terms * unit * (finite if kind == "updates" else finite[:, 2:])
        if rest in ("update_norm", "loss"):
            # a change is the difference of two rounded parameters; a loss the sum of terms that may be larger
            floor = floor + unit * (_norm(trace) if rest == "update_norm" else 1.0)
        done = np.arange(1, len(floor) + 1).reshape(-1, *[1] * (floor.ndim - 1))
        return np.asarray(floor * (done if grows else 1))
    count = int(rest.partition("/")[0]) + (kind == "detail")
    return np.asarray(terms * unit * finite.max(initial=0.0) * (count if grows else 1))


def _norm(trace: Trace) -> float:
    return float(np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in trace.parameters(0).values())))


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
