"""Judge two traces, of one recipe or of aligned loops: identical, rounding, diverged or
inconclusive, and where they first part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.local.difference import SURE, LocalDifference
from lockstep.diagnose.local.judge import local_differences
from lockstep.diagnose.loops import is_loop
from lockstep.errors import InputError
from lockstep.recipe.wording import differing_fields
from lockstep.records.tensor_statistics import STATISTICS
from lockstep.records.tensor_summary import SKETCHES
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
    "place_in_stage",
    "refuse_different_runs",
    "refuse_unbounded",
]

SEMANTICS = 1e-12
"""Largest relative difference between two float64 runs of one meaning. It is relative to a tensor's
largest value, or to a scalar's own at its update. Right runs differ by some 1e-14 after hundreds of
updates; the nearest of the wrong ones tried, a rate rounded to float32, differs by 2.5e-8
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
"""The stages in the order in which one update causes the next."""
SERIES_STAGE = dict(zip(UPDATE_SERIES, ("lr", "loss", "gradients", "update")))
SERIES_WORDS = {
    "loss": "the loss",
    "grad_norm": "the gradient's norm",
    "update_norm": "the update's norm",
}
JUDGED = (
    "updates/",
    "epochs/",
    "parameters/",
    "average/",
    "detail/",
    "statistics/",
    "sketches/",
    "summaries/",
    "hashes/0/",
)
TABLES = ("statistics", "sketches")
"""First part of the names of arrays with a row for each update."""
SUMMARIES = ("hashes", "sketches", "summaries", "statistics")
"""First part of the names of what is left of tensors, in the order in which it says more."""
SKETCH_WORDS = tuple(f"sketch {number}" for number in range(SKETCHES))
FED = ("batch", "forward")
"""Families in which a value that is not finite may be meant: a missing value, a masked score."""

Values = NDArray[Any]
Floats = NDArray[np.float64]

Bounds = Mapping[str, Floats]
"""Name of an array -> absolute bounds on how far rounding may carry it. A bound that is not finite
bounds nothing."""


class OracleBounds(dict[str, Floats]):
    """`Bounds` as an oracle's trace carries them; `reason` says why they are infinite from some
    update on, or is "".
    """

    reason: str = ""


class Limit(NamedTuple):
    """Where judging ends: the first update that was not judged, counted from 0 (-1: before
    training), and why.
    """

    update: int
    reason: str


@dataclass(frozen=True)
class Difference:
    """The worst element of one tensor at one update.

    `ratio` is |a - b| / bound: up to 1 is rounding. `update` is counted from 0; -1 is before
    training. `share` is the share of the tensor's elements, or of the series' updates, that are
    beyond the bound. `rank` is the tensor's place in its stage in the order of cause: layers
    forward, their gradients backward. `array` is its name in the traces. `quantity` is a setting
    that was measured from each side's own tensors, in words, and `a` and `b` are its values; "" for
    an element of an array.
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
    quantity: str = ""


@dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison.

    `worst` has the largest ratio of each stage that was judged. `parted` has what is beyond its
    bound, in causal order; it is empty unless `verdict` is "diverged". `compared` counts the arrays
    that were compared. `limit` is where judging ends, None where everything was judged. `local` has
    the settings in which two loops differ by what each side's own tensors say.
    """

    verdict: str
    worst: dict[str, Difference]
    parted: tuple[Difference, ...]
    compared: int
    limit: Limit | None = None
    local: tuple[LocalDifference, ...] = ()

    @property
    def first(self) -> Difference | None:
        """Where the traces part; None where they do not."""
        return self.parted[0] if self.parted else None


def bounds_of(*traces: Trace) -> OracleBounds | None:
    """The rounding bounds that an oracle's trace among these carries, named as the arrays they
    bound; None where no trace carries any.
    """
    for trace in traces:
        arrays = arrays_below(trace.arrays, "bounds/")
        if arrays:
            bounds = OracleBounds(arrays)
            bounds.reason = (trace.header.get("horizon") or {}).get("reason", "")
            return bounds
    return None


def compare(a: Trace, b: Trace, bounds: Bounds) -> Comparison:
    """Judge every array that both traces hold. A run that went on from a checkpoint is judged over
    the updates that it holds.

    Initial parameters and learning rates must be the same bits, rounded to the lower of both
    precisions. All else must agree within the sum of both sides' bounds, an oracle's being 0.
    Between float64 runs it must agree within `SEMANTICS` of the tensor's largest value, or of a
    scalar's own, where that is more. Of two loops (see `lockstep.diagnose.loops.align`) learning
    rates and batches too may have bounds.

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
    parted.sort(key=_causal_order)
    local: tuple[LocalDifference, ...] = ()
    if is_loop(a) and any(difference.difference for difference in worst.values()):
        until = parted[0].update if parted else int(a.header["updates"])
        local = tuple(local_differences(a, b, until))
        for setting in local:
            difference = _of_setting(a, setting)
            parted.append(difference)
            worst.setdefault(difference.stage, difference)
        parted.sort(key=_causal_order)
    first_limit = min(limits, key=lambda limit: limit.update, default=None)
    if parted:
        verdict = "diverged"
    elif first_limit is not None:
        verdict = "inconclusive"
    elif all(difference.difference == 0 for difference in worst.values()):
        verdict = "identical"
    else:
        verdict = "rounding"
    ordered = {stage: worst[stage] for stage in STAGES if stage in worst}
    return Comparison(verdict, ordered, tuple(parted), len(names), first_limit, local)


def _of_setting(trace: Trace, setting: LocalDifference) -> Difference:
    """The difference of a setting that was measured on both sides."""
    a, b = setting.a, setting.b
    bound = SURE * float(np.hypot(a.error, b.error))
    return Difference(
        stage=a.stage,
        tensor=a.tensor,
        update=a.update,
        element=(),
        a=a.value,
        b=b.value,
        difference=abs(a.value - b.value),
        bound=bound,
        ratio=abs(a.value - b.value) / bound if bound else np.inf,
        rank=place_in_stage(trace, a.stage, a.tensor),
        quantity=a.quantity,
    )


def _causal_order(difference: Difference) -> tuple[int, int, int, int]:
    """The sort key of differences: at one place a tensor says more than its statistics, these more
    than its sketches, and what was measured comes last.
    """
    kind = difference.array.partition("/")[0]
    says_less = len(SUMMARIES) - SUMMARIES.index(kind) if kind in SUMMARIES else 0
    says_less += (len(SUMMARIES) + 1) * bool(difference.quantity)
    return difference.update, STAGES.index(difference.stage), difference.rank, says_less


def refuse_different_runs(a: Trace, b: Trace) -> None:
    """Raise InputError unless the traces are of one recipe and data, or of two loops.

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
        fields = differing_fields(a.recipe.as_dict(), b.recipe.as_dict())
        raise InputError(f"traces of different recipes: {fields}")
    if a.header.get("synchronised", False) != b.header.get("synchronised", False):
        raise InputError(
            "one trace began every update from the oracle's state and the other did not: "
            "nothing to compare"
        )
    if a.header["data_hash"] != b.header["data_hash"]:
        raise InputError(
            f"traces of different data: hash {a.header['data_hash'][:12]} and "
            f"{b.header['data_hash'][:12]}; same recipe, but other rows, initial parameters or "
            "order"
        )


def refuse_unbounded(a: Trace, b: Trace, oracle: Trace) -> None:
    """Raise InputError unless the oracle's trace of a recipe holds, and so bounds, what both traces
    hold.

    Raises:
        InputError: it lacks an array of theirs, or has it in another shape.
    """
    common = [name for name in a.arrays if name.startswith(JUDGED) and name in b.arrays]
    lacking = [name for name in common if name not in oracle.arrays]
    if lacking:
        raise InputError(
            f"the oracle's trace has no {lacking[0]}, which both traces hold: record it with the "
            "same --detail, --statistics and --parameters-every"
        )
    tensors = [
        name
        for name in a.arrays
        if name.startswith(("parameters/", "average/")) and name in oracle.arrays
    ]
    for trace in (a, b):
        for name in tensors:
            if name not in trace.arrays:
                continue
            shape = trace.arrays[name].shape
            if shape != oracle.arrays[name].shape:
                raise InputError(
                    f"{name}: shape {shape} in the trace of {trace.backend}, and "
                    f"{oracle.arrays[name].shape} by the recipe's data"
                )


def differences(
    a: Trace, b: Trace, name: str, bounds: Bounds, at: Difference | None = None
) -> list[Difference]:
    """Where an array that both traces hold differs most.

    Of a tensor this is the worst element. Of a series it is the update, or epoch, that differs most
    (by ratio) and the first that is beyond its bound, or with `at` the update of that difference.
    Rows of a batch that one side lacks are NaN there. The list is empty where nothing of the array
    is judged.

    Raises:
        InputError: the shapes differ.
    """
    return _worst_places(a, name, _gap(a, b, name, bounds), at)


# ---- two arrays held against one another


class _Gap(NamedTuple):
    """Two arrays held against one another.

    `begin` is the update, or epoch, of their first row. All arrays have one shape: both sides in
    float64, their distance, the bound on it, the distance over the bound, and where nothing is
    judged.
    """

    begin: int
    a: Floats
    b: Floats
    distance: Floats
    bound: Floats
    ratio: Floats
    unjudged: NDArray[np.bool_]


def _gap(a: Trace, b: Trace, name: str, bounds: Bounds) -> _Gap:
    begin, values_a, values_b = _common(a, b, name)
    if "/batch/" in name or "/forward/" in name:
        values_a, values_b = _of_as_many_rows(values_a, values_b)
    if values_a.shape != values_b.shape:
        raise InputError(f"{name}: shapes differ, {values_a.shape} and {values_b.shape}")
    bound: Values = np.zeros(())
    if not _must_be_equal(a, name, bounds):
        bound = _bound(a, b, name, bounds, begin, values_b)
    elif values_a.dtype.kind == values_b.dtype.kind == "f":
        # an integer or a flag would lose its value
        lower = min(values_a.dtype, values_b.dtype, key=lambda dtype: dtype.itemsize)
        values_a = values_a.astype(lower)
        values_b = values_b.astype(lower)
    wide_a = values_a.astype(np.float64)
    wide_b = values_b.astype(np.float64)
    with np.errstate(all="ignore"):
        distance = np.abs(wide_a - wide_b)
        same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
        distance = np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
        unjudged = ~same & ~np.isfinite(bound)
        if not _may_be_infinite(a, name):
            opposite = wide_a == -wide_b  # infinities of either sign
            unjudged |= ~np.isfinite(wide_a) & ~np.isfinite(wide_b) & ~opposite
        if is_loop(a) and _has_size(name):
            size = np.abs(wide_a[np.isfinite(wide_a)]).max(initial=0.0)
            unjudged |= ~same & (distance <= bound) & (bound >= size) & np.isfinite(size)
        ratio = np.where(same | unjudged, 0.0, distance / bound)
    distance = np.where(unjudged, 0.0, distance)
    bound = np.broadcast_to(bound, distance.shape)
    return _Gap(begin, wide_a, wide_b, distance, bound, ratio, unjudged)


def _must_be_equal(trace: Trace, name: str, bounds: Bounds) -> bool:
    """Whether an array must be the same bits: learning rates, initial parameters and batches; of a
    loop only those without a bound.
    """
    first = ("parameters/0/", "average/0/", "hashes/0/")
    is_given = name == "updates/lr" or name.startswith(first)
    if not is_given and "/batch/" not in name:
        return False
    return not (is_loop(trace) and name in bounds)


def _bound(a: Trace, b: Trace, name: str, bounds: Bounds, begin: int, values: Values) -> Values:
    """The bound on the distance of both sides, from the update or epoch `begin` on; `values` are
    one side's.
    """
    bound = np.asarray(bounds.get(name, np.zeros(())))
    if bound.ndim:
        bound = bound[begin:]
    sides = sum(trace.backend != "oracle" for trace in (a, b))
    with np.errstate(invalid="ignore"):  # of two oracles' traces, where the bound is infinite
        bound = bound * sides
    dtype = a.header.get("recipe", {}).get("training", a.header)["dtype"]
    if dtype == "float64" and not name.endswith("accuracy"):
        bound = np.maximum(bound, SEMANTICS * _sizes(name, values))
    return bound


def _sizes(name: str, values: Values) -> Floats:
    """The sizes to which a float64 difference is relative: a tensor's largest value, each scalar of
    a series, and for statistics the tensor's largest value at each update. A value that is not
    finite counts as 0.
    """
    size = np.where(np.isfinite(values), np.abs(values.astype(np.float64)), 0.0)
    kind = name.partition("/")[0]
    if name.endswith("_r2"):  # 1 - a share: near 0 it keeps the rounding of what cancels
        return np.maximum(size, np.where(np.isfinite(values), np.abs(1 - values), 0.0))
    if kind in ("updates", "epochs"):
        return size
    if kind in TABLES:
        return np.asarray(size.max(axis=-1, keepdims=True, initial=0.0))
    return np.asarray(size.max(initial=0.0))


def _may_be_infinite(trace: Trace, name: str) -> bool:
    """Whether a value that is not finite may be meant, and is then compared as any other. In a
    loop's statistics NaN stands for an update that has none.
    """
    kind, _, rest = name.partition("/")
    if kind in TABLES:
        return is_loop(trace) or rest.startswith(FED)
    return kind == "detail" and rest.split("/")[1] in FED


def _has_size(name: str) -> bool:
    """Whether a bound as wide as an array's largest value leaves nothing to judge. Gradients may be
    0 but for rounding, and those of other tensors tell then.
    """
    kind, _, rest = name.partition("/")
    if kind == "updates":
        return rest in SERIES_WORDS
    return kind != "sketches" and "/forward/" in name


def _limit(trace: Trace, name: str, gap: _Gap, bounds: Bounds) -> Limit | None:
    """The first update of which an array was not judged; None where all of it was."""
    if not gap.unjudged.any():
        return None
    kind, _, rest = name.partition("/")
    unjudged = gap.unjudged
    bound = gap.bound
    values = gap.a
    if kind in ("updates", *TABLES, "epochs"):
        row = int(unjudged.reshape(len(unjudged), -1).any(axis=1).argmax())
        unjudged = unjudged[row]
        bound = bound[row]
        values = values[row]
        length = trace.header["updates_per_epoch"] if kind == "epochs" else 1
        update = (gap.begin + row + 1) * length - 1
    else:
        update = int(rest.split("/")[0]) - (kind != "detail")
    if np.isfinite(bound[unjudged]).all():
        noun = SERIES_WORDS.get(rest, rest.rpartition("/")[2])
        if np.isfinite(values[unjudged]).any():
            return Limit(update, f"the bound on rounding is as wide as {noun} is large")
        return Limit(update, f"{noun} is finite on neither side")
    return Limit(update, getattr(bounds, "reason", "") or "no bound on rounding is finite")


def _of_as_many_rows(a: Values, b: Values) -> tuple[Values, Values]:
    """Both arrays, the shorter one with rows of NaN at its end; as they are where they differ in
    more than their rows.
    """
    if a.ndim != b.ndim or a.shape == b.shape or a.shape[1:] != b.shape[1:]:
        return a, b
    rows = max(len(a), len(b))
    return _filled_up(a, rows), _filled_up(b, rows)


def _filled_up(array: Values, rows: int) -> Values:
    """The array with rows of NaN at its end."""
    # an integer or a flag cannot be NaN
    wide = array.astype(np.result_type(array, np.float16))
    missing = np.full((rows - len(wide), *wide.shape[1:]), np.nan, wide.dtype)
    return np.concatenate([wide, missing])


def _common(a: Trace, b: Trace, name: str) -> tuple[int, Values, Values]:
    """The first update, or epoch, of which both traces hold the array, and both from there on."""
    kind = name.partition("/")[0]
    if kind in TABLES:
        first_a, first_b = (trace.header.get("statistics") or 0 for trace in (a, b))
    elif kind in ("updates", "epochs"):
        length = a.header["updates_per_epoch"] if kind == "epochs" else 1
        first_a = a.first_update // length
        first_b = b.first_update // length
    else:
        return 0, a.arrays[name], b.arrays[name]
    begin = max(first_a, first_b)
    return begin, a.arrays[name][begin - first_a :], b.arrays[name][begin - first_b :]


# ---- the worst places


def _worst_places(a: Trace, name: str, gap: _Gap, at: Difference | None = None) -> list[Difference]:
    """As `differences`."""
    if gap.unjudged.all() and gap.unjudged.size:
        return []
    ratio = gap.ratio
    share = float(np.mean(~(ratio <= 1))) if ratio.size else 0.0
    places = []
    for index in _worst_indices(name, gap, at, a.header["updates_per_epoch"]):
        place = _place(a, name, gap, index)
        difference = Difference(
            stage=place.stage,
            tensor=place.statistic + place.tensor,
            update=place.update,
            element=place.element,
            a=float(gap.a.flat[index]),
            b=float(gap.b.flat[index]),
            difference=float(gap.distance.flat[index]),
            bound=float(gap.bound.flat[index]),
            ratio=float(ratio.flat[index]),
            share=share,
            rank=place_in_stage(a, place.stage, place.tensor),
            array=name,
        )
        places.append(difference)
    return places


def _worst_indices(name: str, gap: _Gap, at: Difference | None, epoch_length: int) -> list[int]:
    """The flat indices of the worst places, ascending."""
    ratio = gap.ratio
    kind = name.partition("/")[0]
    if kind in ("parameters", "average", "detail", "summaries", "hashes"):
        if not ratio.size:
            return []
        # where nothing is beyond 0 of its bound, distances without a bound still differ
        worst = ratio if ratio.max(initial=0) > 0 else gap.distance
        return [int(worst.argmax())]
    if at is not None:
        row = (at.update // epoch_length if kind == "epochs" else at.update) - gap.begin
        return [row * ratio[row].size + int(ratio[row].argmax())]
    return sorted({int(ratio.argmax()), int((ratio > 1).argmax())})


class _Place(NamedTuple):
    """An element of an array in the words of a `Difference`; `statistic` stands before the tensor's
    name, as in "mean of ".
    """

    stage: str
    tensor: str
    update: int
    element: tuple[int, ...] = ()
    statistic: str = ""


def _place(trace: Trace, name: str, gap: _Gap, index: int) -> _Place:
    """The place of a flat index into an array."""
    kind, _, rest = name.partition("/")
    element = tuple(int(i) for i in np.unravel_index(index, gap.ratio.shape))
    if kind in ("parameters", "average"):
        updates, _, tensor = rest.partition("/")
        return _Place("init" if updates == "0" else kind, tensor, int(updates) - 1, element)
    if kind == "detail":
        update, stage, tensor = rest.split("/", 2)
        return _Place(stage, tensor, int(update), element)
    if kind == "updates":
        return _Place(SERIES_STAGE.get(rest, "lr"), rest, gap.begin + index)
    if kind in TABLES:
        stage, _, tensor = rest.partition("/")
        row, column = element
        numbers = STATISTICS if kind == "statistics" else SKETCH_WORDS
        return _Place(stage, tensor, gap.begin + row, statistic=f"{numbers[column]} of ")
    if kind in ("summaries", "hashes"):
        updates, _, tensor = rest.partition("/")
        stage = "init" if updates == "0" else "parameters"
        words = "the hash" if kind == "hashes" else (*STATISTICS, *SKETCH_WORDS)[index]
        return _Place(stage, tensor, int(updates) - 1, statistic=f"{words} of ")
    epochs = gap.begin + index + 1
    return _Place("metrics", rest, epochs * trace.header["updates_per_epoch"] - 1)


def place_in_stage(trace: Trace, stage: str, tensor: str) -> int:
    """A tensor's place within its stage. A recipe's layers are numbered, and of one number they
    stand as they are applied; a loop's layers stand as its trace lists them.
    """
    layer = tensor.rpartition("/")[2]
    layers = trace.header.get("layers", [])
    if layer not in layers:
        layer = layer.rpartition(".")[0] if is_loop(trace) else layer.partition(".")[0]
    activation = (trace.header.get("recipe") or {}).get("model", {}).get("activation", "")
    kinds = ("linear", "norm", activation, "dropout")
    kind = layer.rstrip("0123456789")
    number = layer[len(kind) :]
    if kind in kinds and number and not is_loop(trace):
        place = int(number) * len(kinds) + kinds.index(kind)
    else:
        place = layers.index(layer) if layer in layers else 0
    # the loss and the norms, which are of no layer, are at place 0
    return 1 - place if stage in ("gradients", "clip") else 1 + place
