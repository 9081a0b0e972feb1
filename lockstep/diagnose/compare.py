"""Judge two traces, of one recipe or of aligned loops: identical, rounding, diverged or
inconclusive, and where they first part.
"""

from dataclasses import dataclass

import numpy as np

from lockstep.diagnose.gaps import SEMANTICS, Bounds, Floats, Limit, gap_of, limit_of
from lockstep.diagnose.local.difference import SURE, LocalDifference
from lockstep.diagnose.local.judge import local_differences
from lockstep.diagnose.loops import is_loop
from lockstep.diagnose.places import STAGES, Difference, place_in_stage, worst_places
from lockstep.errors import InputError
from lockstep.recipe.wording import differing_fields
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = [
    "SEMANTICS",
    "STAGES",
    "Bounds",
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
SUMMARIES = ("hashes", "sketches", "summaries", "statistics")
"""First part of the names of what is left of tensors, in the order in which it says more."""


class OracleBounds(dict[str, Floats]):
    """`Bounds` as an oracle's trace carries them; `reason` says why they are infinite from some
    update on, or is "".
    """

    reason: str = ""


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
        gap = gap_of(a, b, name, bounds)
        limit = limit_of(a, name, gap, bounds)
        if limit is not None:
            limits.append(limit)
        for difference in worst_places(a, name, gap):
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
    return worst_places(a, name, gap_of(a, b, name, bounds), at)
