"""Judge two traces, of one recipe or of aligned loops: identical, rounding, diverged or
inconclusive, and where they first part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.loops import is_loop
from lockstep.errors import InputError
from lockstep.recipe.wording import differing_fields
from lockstep.records.tensor_statistics import STATISTICS
from lockstep.records.trace import UPDATE_SERIES, Trace
from lockstep.tensor_file import arrays_below

__all__ = [
    "SEMANTICS",
    "STAGES",
    "Comparison",
    "Difference",
    "Limit",
    "OracleBounds",
    "bounds_of",
    "compare",
    "differences",
    "refuse_different_runs",
    "refuse_unbounded",
]

SEMANTICS = 1e-12
"""Largest relative difference between two float64 runs of one meaning: relative to a tensor's
largest value, or to a scalar's own at its update. Right ones differ by some 1e-14 after hundreds of
updates; of the wrong ones tried, the nearest (a rate rounded to float32) by 2.5e-8
(docs/equality.md)."""

STAGES = (
    "init",
    "batch",
    "forward",
    "loss",
    "gradients",
    "clip",
    "lr",
    "moments",
    "update",
    "parameters",
    "average",
    "metrics",
)
"""In the order in which one update causes the next."""
SERIES_STAGE = dict(zip(UPDATE_SERIES, ("lr", "loss", "gradients", "update")))
SERIES_WORDS = {
    "loss": "the loss",
    "grad_norm": "the gradient's norm",
    "update_norm": "the update's norm",
}
JUDGED = ("updates/", "epochs/", "parameters/", "average/", "detail/", "statistics/")
FED = ("batch", "forward")
"""Families in which a value that is not finite may be meant: a missing value, a score that is
masked.
"""

Bounds = Mapping[str, NDArray[np.float64]]
"""Name of an array -> absolute bounds on how far rounding may carry it; what is not finite bounds
nothing.
"""


class OracleBounds(dict[str, NDArray[np.float64]]):
    """`Bounds` as an oracle's trace carries them; `reason` says why they are infinite from some
    update on, or is "".
    """

    reason: str = ""


class Limit(NamedTuple):
    """From where on nothing was judged: the first such update, counted from 0 (-1: before
    training), and why.
    """

    update: int
    reason: str


@dataclass(frozen=True)
class Difference:
    """The worst element of one tensor at one update.

    `ratio` is |a - b| / bound: up to 1 is rounding. `update` is counted from 0; -1 is before
    training. `share` is that of the tensor's elements, or of the series' updates, that are beyond
    the bound; `rank` the tensor's place in its stage, in the order of cause: layers forward, their
    gradients backward. `array` is its name in the traces.
    """

    stage: str
    tensor: str
    update: int
    element: tuple[int, ...]
    a: float
    b: float
    difference: float
    bound: float
    ratio: float
    share: float = 0.0
    rank: int = 0
    array: str = ""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    `worst` has the largest ratio of each stage that was judged; `parted` what is beyond its bound,
    in causal order, empty unless `verdict` is "diverged"; `limit` is where judging ends, None where
    everything was judged.
    """

    verdict: str
    worst: dict[str, Difference]
    parted: tuple[Difference, ...]
    compared: int
    limit: Limit | None = None

    @property
    def first(self) -> Difference | None:
        """Where the traces part."""
        return self.parted[0] if self.parted else None


def bounds_of(*traces: Trace) -> OracleBounds | None:
    """The rounding bounds that an oracle's trace among these carries, named as the arrays they
    bound.
    """
    for trace in traces:
        arrays = arrays_below(trace.arrays, "bounds/")
        if arrays:
            bounds = OracleBounds(arrays)
            bounds.reason = (trace.header.get("horizon") or {}).get("reason", "")
            return bounds
    return None


def compare(a: Trace, b: Trace, bounds: Bounds) -> Comparison:
    """Judge every array that both traces hold; of a run that went on from a checkpoint, the updates
    it holds.

    Initial parameters and learning rates must be the same bits, rounded to the lower of both
    precisions. All else
    must agree within the sum of both sides' bounds, an oracle's being 0; between float64 runs
    within `SEMANTICS` of
    the tensor's largest value, or of a scalar's own, where that is more. Of two loops (see
    `lockstep.diagnose.loops.align`) learning rates and batches too may have bounds.

    Values that are finite on neither side are not judged, but for infinities of opposite signs; nor
    are values that differ under a bound that is not finite. Where these are all that differ, the
    verdict is "inconclusive".

    Raises:
        InputError: traces of different recipes or data, or with nothing in common to compare.
    """
    refuse_different_runs(a, b)
    names = [name for name in a.arrays if name.startswith(JUDGED) and name in b.arrays]
    has_needed = any(name.startswith("parameters/") for name in names) and "updates/lr" in names
    if not (names if is_loop(a) else has_needed):
        raise InputError("the traces have no recorded parameters in common: nothing to compare")
    parted: list[Difference] = []
    worst: dict[str, Difference] = {}
    limits: list[Limit] = []
    for name in names:
        gap = _gap(a, b, name, bounds)
        limit = _limit(a, name, gap, bounds)
        if limit is not None:
            limits.append(limit)
        for difference in _worst_places(a, name, gap):
            known = worst.get(difference.stage)
            if known is None or not difference.ratio <= known.ratio:
                worst[difference.stage] = difference
            if not difference.ratio <= 1:
                parted.append(difference)
    # a tensor says more than its statistics
    parted.sort(
        key=lambda f: (f.update, STAGES.index(f.stage), f.rank, f.array.startswith("statistics/"))
    )
    limit = min(limits, key=lambda limit: limit.update, default=None)
    same = all(found.difference == 0 for found in worst.values())
    if parted:
        verdict = "diverged"
    elif limit is not None:
        verdict = "inconclusive"
    else:
        verdict = "identical" if same else "rounding"
    ordered = {stage: worst[stage] for stage in STAGES if stage in worst}
    return Comparison(verdict, ordered, tuple(parted), len(names), limit)


def refuse_different_runs(a: Trace, b: Trace) -> None:
    """Nothing, for traces of one recipe and data, or of two loops.

    Raises:
        InputError: traces of different recipes or data, names what differs; a loop's beside a
        recipe's.
    """
    if is_loop(a) != is_loop(b):
        raise InputError(
            "one trace is of a recipe and the other of somebody's own loop: nothing to compare"
        )
    if is_loop(a):
        return
    if a.header["recipe_hash"] != b.header["recipe_hash"]:
        raise InputError(
            "traces of different recipes: "
            f"{differing_fields(a.recipe.as_dict(), b.recipe.as_dict())}"
        )
    if a.header.get("synchronised", False) != b.header.get("synchronised", False):
        raise InputError(
            "one trace began every update from the oracle's state and the other did not: "
            "nothing to compare"
        )
    if a.header["data_hash"] != b.header["data_hash"]:
        raise InputError(
            f"traces of different data: hash {a.header['data_hash'][:12]} and "
            f"{b.header['data_hash'][:12]}; "
            "same recipe, but other rows, initial parameters or order"
        )


def refuse_unbounded(a: Trace, b: Trace, oracle: Trace) -> None:
    """Nothing, where the oracle's trace of a recipe has recorded what both traces hold, and so
    bounds it.

    Raises:
        InputError: it lacks an array of theirs, or has it in another shape.
    """
    lacking = [
        k for k in a.arrays if k.startswith(JUDGED) and k in b.arrays and k not in oracle.arrays
    ]
    if lacking:
        raise InputError(
            f"the oracle's trace has no {lacking[0]}, which both traces hold: record it "
            "with the same --detail, "
            "--statistics and --parameters-every"
        )
    tensors = [
        name
        for name in a.arrays
        if name.startswith(("parameters/", "average/")) and name in oracle.arrays
    ]
    for trace in (a, b):
        for name in tensors:
            if name in trace.arrays and trace.arrays[name].shape != oracle.arrays[name].shape:
                raise InputError(
                    f"{name}: shape {trace.arrays[name].shape} in the trace of "
                    f"{trace.backend}, and "
                    f"{oracle.arrays[name].shape} by the recipe's data"
                )


def differences(
    a: Trace, b: Trace, name: str, bounds: Bounds, at: Difference | None = None
) -> list[Difference]:
    """How an array that both traces hold differs: the worst element of a tensor; of a series the
    update, or epoch, that differs most (by ratio) and the first that is beyond its bound, or with
    `at` the one of that difference. Rows of a batch that one side lacks are NaN there. Empty where
    nothing of the array is judged.

    Raises:
        InputError: the shapes differ.
    """
    return _worst_places(a, name, _gap(a, b, name, bounds), at)


class _Gap(NamedTuple):
    """Two arrays held against one another: the update, or epoch, of their first row; both in
    float64, their distance, the bound on it, the distance over the bound, and where nothing is
    judged, all of one shape."""

    begin: int
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    distance: NDArray[np.float64]
    bound: NDArray[np.float64]
    ratio: NDArray[np.float64]
    unjudged: NDArray[np.bool_]


def _gap(a: Trace, b: Trace, name: str, bounds: Bounds) -> _Gap:
    begin, (values_a, values_b) = _common(a, b, name)
    if "/batch/" in name or "/forward/" in name:
        values_a, values_b = _of_as_many_rows(values_a, values_b)
    if values_a.shape != values_b.shape:
        raise InputError(f"{name}: shapes differ, {values_a.shape} and {values_b.shape}")
    exact = (
        name == "updates/lr"
        or name.startswith(("parameters/0/", "average/0/"))
        or "/batch/" in name
    )
    exact = exact and not (is_loop(a) and name in bounds)
    bound: NDArray[Any] = np.zeros(())
    if (
        exact and values_a.dtype.kind == values_b.dtype.kind == "f"
    ):  # an integer or a flag would lose its value
        lower = min(values_a.dtype, values_b.dtype, key=lambda dtype: dtype.itemsize)
        values_a, values_b = values_a.astype(lower), values_b.astype(lower)
    if not exact:
        bound = np.asarray(bounds.get(name, np.zeros(())))
        with np.errstate(invalid="ignore"):  # of two oracles' traces, where the bound is infinite
            bound = (bound[begin:] if bound.ndim else bound) * sum(
                trace.backend != "oracle" for trace in (a, b)
            )
        if a.header.get("recipe", {}).get("training", a.header)[
            "dtype"
        ] == "float64" and not name.endswith("accuracy"):
            bound = np.maximum(bound, SEMANTICS * _sizes(name, values_b))
    wide_a, wide_b = values_a.astype(np.float64), values_b.astype(np.float64)
    with np.errstate(all="ignore"):
        distance = np.abs(wide_a - wide_b)
        same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
        distance = np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
        unjudged = ~same & ~np.isfinite(bound)
        if not _may_be_infinite(a, name):
            opposite = wide_a == -wide_b  # infinities of either sign
            unjudged |= ~np.isfinite(wide_a) & ~np.isfinite(wide_b) & ~opposite
        ratio = np.where(same | unjudged, 0.0, distance / bound)
    distance = np.where(unjudged, 0.0, distance)
    return _Gap(
        begin, wide_a, wide_b, distance, np.broadcast_to(bound, distance.shape), ratio, unjudged
    )


def _sizes(name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """How large the values are to which a float64 difference is relative: of a tensor its largest
    value, of a series each scalar, of statistics the tensor's largest value at each update. What is
    not finite counts as 0."""
    size = np.where(np.isfinite(values), np.abs(values.astype(np.float64)), 0.0)
    kind = name.partition("/")[0]
    if name.endswith("_r2"):  # 1 - a share: near 0 it keeps the rounding of what cancels
        return np.maximum(size, np.where(np.isfinite(values), np.abs(1 - values), 0.0))
    if kind in ("updates", "epochs"):
        return size
    if kind == "statistics":
        return np.asarray(size.max(axis=-1, keepdims=True, initial=0.0))
    return np.asarray(size.max(initial=0.0))


def _may_be_infinite(trace: Trace, name: str) -> bool:
    """Whether a value that is not finite may be meant, and is then compared as any other: of a
    loop's statistics NaN stands for an update that has none."""
    kind, _, rest = name.partition("/")
    if kind == "statistics":
        return is_loop(trace) or rest.startswith(FED)
    return kind == "detail" and rest.split("/")[1] in FED


def _limit(trace: Trace, name: str, gap: _Gap, bounds: Bounds) -> Limit | None:
    """The first update of which an array was not judged."""
    if not gap.unjudged.any():
        return None
    kind, _, rest = name.partition("/")
    is_series = kind in ("updates", "statistics", "epochs")
    unjudged, bound = gap.unjudged, gap.bound
    if is_series:
        row = int(unjudged.reshape(len(unjudged), -1).any(axis=1).argmax())
        unjudged, bound = unjudged[row], bound[row]
        length = trace.header["updates_per_epoch"] if kind == "epochs" else 1
        update = (gap.begin + row + 1) * length - 1
    else:
        update = int(rest.split("/")[0]) - (kind != "detail")
    if np.isfinite(bound[unjudged]).all():
        return Limit(
            update, f"{SERIES_WORDS.get(rest, rest.rpartition('/')[2])} is finite on neither side"
        )
    return Limit(update, getattr(bounds, "reason", "") or "no bound on rounding is finite")


def _worst_places(a: Trace, name: str, gap: _Gap, at: Difference | None = None) -> list[Difference]:
    """As `differences`."""
    if gap.unjudged.all() and gap.unjudged.size:
        return []
    kind, _, rest = name.partition("/")
    length = a.header["updates_per_epoch"]
    ratio, begin = gap.ratio, gap.begin
    is_tensor = kind in ("parameters", "average", "detail")
    if is_tensor:
        places = (
            [int(ratio.argmax()) if ratio.max(initial=0) > 0 else int(gap.distance.argmax())]
            if ratio.size
            else []
        )
    elif at is not None:
        row = (at.update // length if kind == "epochs" else at.update) - begin
        places = [row * ratio[row].size + int(ratio[row].argmax())]
    else:
        places = sorted({int(ratio.argmax()), int((ratio > 1).argmax())})
    found = []
    share = float(np.mean(~(ratio <= 1))) if ratio.size else 0.0
    for place in places:
        element, statistic = tuple(int(i) for i in np.unravel_index(place, ratio.shape)), ""
        if kind in ("parameters", "average"):
            done, _, tensor = rest.partition("/")
            stage, update = ("init" if done == "0" else kind), int(done) - 1
        elif kind == "detail":
            number, stage, tensor = rest.split("/", 2)
            update = int(number)
        elif kind == "updates":
            stage, tensor, update, element = SERIES_STAGE.get(rest, "lr"), rest, begin + place, ()
        elif kind == "statistics":
            stage, _, tensor = rest.partition("/")
            update, statistic, element = begin + element[0], f"{STATISTICS[element[1]]} of ", ()
        else:
            stage, tensor, update, element = "metrics", rest, (begin + place + 1) * length - 1, ()
        found.append(
            Difference(
                stage=stage,
                tensor=statistic + tensor,
                update=update,
                element=element,
                a=float(gap.a.flat[place]),
                b=float(gap.b.flat[place]),
                difference=float(gap.distance.flat[place]),
                bound=float(gap.bound.flat[place]),
                ratio=float(ratio.flat[place]),
                share=share,
                rank=_rank(a, stage, tensor),
                array=name,
            )
        )
    return found


def _of_as_many_rows(a: NDArray[Any], b: NDArray[Any]) -> list[NDArray[Any]]:
    """Both, the shorter one with rows of NaN; as they are where they differ otherwise."""
    if a.ndim != b.ndim or a.shape == b.shape or a.shape[1:] != b.shape[1:]:
        return [a, b]
    # an integer or a flag cannot be NaN
    wide = [array.astype(np.result_type(array, np.float16)) for array in (a, b)]
    missing = [max(len(a), len(b)) - len(array) for array in wide]
    return [
        np.concatenate([array, np.full((rows, *array.shape[1:]), np.nan, array.dtype)])
        for array, rows in zip(wide, missing)
    ]


def _common(a: Trace, b: Trace, name: str) -> tuple[int, list[NDArray[Any]]]:
    """The first update, or epoch, of which both traces hold the array, and both from there on."""
    kind, length = name.partition("/")[0], a.header["updates_per_epoch"]
    if kind == "statistics":
        firsts = [trace.header.get("statistics") or 0 for trace in (a, b)]
    elif kind in ("updates", "epochs"):
        firsts = [trace.first_update // (length if kind == "epochs" else 1) for trace in (a, b)]
    else:
        return 0, [a.arrays[name], b.arrays[name]]
    return max(firsts), [
        trace.arrays[name][max(firsts) - first :] for trace, first in zip((a, b), firsts)
    ]


def _rank(trace: Trace, stage: str, tensor: str) -> int:
    """A tensor's place within its stage. Layers are numbered; of one number they stand as they are
    applied, in somebody else's trace as it lists them."""
    layer = tensor.rpartition("/")[2]
    layers = trace.header.get("layers", [])
    module = layer.rpartition(".")[0] if is_loop(trace) else layer.partition(".")[0]
    layer = layer if layer in layers else module
    kinds = (
        "linear",
        "norm",
        (trace.header.get("recipe") or {}).get("model", {}).get("activation", ""),
        "dropout",
    )
    name, number = layer.rstrip("0123456789"), layer[len(layer.rstrip("0123456789")) :]
    if name in kinds and number and not is_loop(trace):
        place = int(number) * len(kinds) + kinds.index(name)
    else:
        place = layers.index(layer) if layer in layers else 0
    # a tensor after the loss or the norm that is made of them all
    return 1 - place if stage in ("gradients", "clip") else 1 + place
