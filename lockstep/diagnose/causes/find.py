"""From the first difference of two traces to its cause."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.causes import (
    batch,
    clip,
    evaluation,
    gradient,
    passes,
    rate,
    start,
    step,
    update,
)
from lockstep.diagnose.causes.alternatives import BETTER, Alternative, Cause, choose
from lockstep.diagnose.causes.digits import low_precision
from lockstep.diagnose.causes.layers import layer_cause
from lockstep.diagnose.causes.relations import relation
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.causes.tensors import Tensors, residual
from lockstep.diagnose.compare import Difference
from lockstep.records.trace import Trace

__all__ = ["find_cause", "needed_detail"]


class StageTest(NamedTuple):
    """How the causes of a stage are tested.

    `recorded` gives what a side recorded of it; `null` what the recipe gives, None where the inputs
    were not recorded; `alternatives` the known other ways.
    """

    recorded: Callable[[Side], Tensors]
    null: Callable[[Side], Tensors | None]
    alternatives: Callable[[Side, Tensors], Iterator[Alternative]]


PASS = StageTest(passes.recorded_by, passes.null, gradient.alternatives)
UPDATE = StageTest(step.recorded_by, step.null, update.alternatives)
STATISTICS = StageTest(
    evaluation.statistics_recorded, evaluation.statistics_null, evaluation.statistics_alternatives
)
AVERAGE = StageTest(
    evaluation.average_recorded, evaluation.average_null, evaluation.average_alternatives
)
METRICS = StageTest(
    evaluation.metric_recorded, evaluation.metric_null, evaluation.metric_alternatives
)
STAGES: dict[str, StageTest] = {
    "init": StageTest(start.recorded_by, start.null, start.alternatives),
    "batch": StageTest(batch.recorded_by, batch.null, batch.alternatives),
    "forward": PASS,
    "loss": PASS,
    "gradients": PASS,
    "clip": StageTest(clip.recorded_by, clip.null, clip.alternatives),
    "lr": StageTest(rate.recorded_by, rate.null, rate.alternatives),
    "moments": UPDATE,
    "update": UPDATE,
    "parameters": UPDATE,
    "average": AVERAGE,
    "metrics": METRICS,
}
DETAILED = ("batch", "forward", "loss", "gradients", "clip", "moments", "update", "parameters")


def find_cause(first: Difference, a: Trace, b: Trace, oracle: Trace | None = None) -> Cause | None:
    """What explains the first difference of two traces.

    The stage is recomputed on each side from that side's own recorded inputs: as the recipe has it,
    and under every known alternative. Where a side is not what the recipe gives and an alternative
    gives just that, it is the cause. Where there is no recipe, or no alternative holds, the two
    sides' tensors are held against each other.

    Args:
        first: where the traces part, as `lockstep.diagnose.compare` found it.
        a: one trace.
        b: the other; either may be the oracle's.
        oracle: the oracle's, which says who is off where there is no recipe to recompute by.

    Returns:
        None where none of the known causes explains the numbers.
    """
    if first.stage not in STAGES:
        return None
    update = first.update if _is_average(first) else max(first.update, 0)
    side_a = Side("a", a, update, _others(a, b, oracle))
    side_b = Side("b", b, update, _others(b, a, oracle))
    with np.errstate(all="ignore"):
        if first.stage == "gradients":
            flip = gradient.relu_flip(side_a, side_b)
            if flip is not None:
                return flip
        # the rates of two loops are held against each other and their declared schedules before
        are_rates_of_loops = first.stage == "lr" and not any(
            "recipe" in trace.header for trace in (a, b)
        )
        for side, other in ((side_b, side_a), (side_a, side_b)):
            cause = None if side.is_oracle or are_rates_of_loops else _tested(first, side)
            if cause is not None and "recipe" not in a.header:
                cause = _of_settings(cause) if _may_speak(first, cause, side, other) else None
            if cause is not None:
                return cause
        broken = _not_a_number(first)
        if broken is not None:
            return broken
        if "recipe" not in a.header:
            cause = layer_cause(first, side_a, side_b)
            if cause is not None:
                return cause
        return relation(first, side_a, side_b, oracle)


def needed_detail(first: Difference, a: Trace, b: Trace) -> tuple[int, ...]:
    """The updates that both traces must hold in detail for the causes of a difference to be tested,
    and do not.
    """
    if first.stage not in DETAILED:
        return ()
    updates = [first.update]
    if first.stage in ("moments", "update", "parameters"):
        updates = [first.update - 1, first.update]
    return tuple(
        update
        for update in updates
        if update >= 0 and not (_has_detail(a, update) and _has_detail(b, update))
    )


def _has_detail(trace: Trace, update: int) -> bool:
    return any(name.startswith(f"detail/{update}/") for name in trace.arrays)


def _others(trace: Trace, rest: Trace, oracle: Trace | None) -> tuple[Trace, ...]:
    """The traces beside one: the oracle's first."""
    return tuple(other for other in (oracle, rest) if other is not None and other is not trace)


def _tested(first: Difference, side: Side) -> Cause | None:
    """What explains a side against its recipe; None where the side follows it, or nothing does."""
    test = STAGES[first.stage]
    if first.stage == "parameters" and first.tensor in side.statistics(side.update + 1):
        test = STATISTICS
    if _is_average(first):
        test = AVERAGE
    recorded = test.recorded(side)
    null = test.null(side)
    if null is None or not recorded:
        return None
    noise = step.rounding(side) if test is UPDATE else {}
    tolerance = side.tolerance
    if first.stage == "lr":
        tolerance = rate.ROUNDING.get(side.precision, side.tolerance)
        if residual(null, recorded) <= tolerance:
            return rate.rounded(side, recorded, null)
    is_complete = recorded.keys() <= null.keys()
    if is_complete and residual(null, recorded, noise) <= tolerance / BETTER:
        return None
    alternatives = test.alternatives(side, recorded)
    cause = choose(recorded, null, alternatives, tolerance, side.name, noise)
    return cause or low_precision(first, side, recorded, null)


def _may_speak(first: Difference, cause: Cause, side: Side, other: Side) -> bool:
    """Whether a loop's settings say that it is off: not where the other side departs from its own
    too, or where what is off was not declared.
    """
    declared_optimizer = side.trace.header.get("settings", {}).get("optimizer", {})
    if cause.key == "decay-on-bias" and "decay_on" not in declared_optimizer:
        return False
    if first.stage not in ("clip", "moments", "update", "parameters"):
        return True
    test = STAGES[first.stage]
    recorded, null = test.recorded(other), test.null(other)
    if null is None or not recorded:
        return True  # it declares nothing
    names = recorded.keys() & null.keys()
    noise = step.rounding(other) if test is UPDATE else {}
    common = {name: recorded[name] for name in names}
    return residual(null, common, noise) <= other.tolerance


def _of_settings(cause: Cause) -> Cause:
    """The cause in words of a loop, which has settings and no recipe."""
    text = cause.text.replace("the recipe says", "its settings say")
    text = text.replace("the recipe's", "its settings'").replace("the recipe", "what it declares")
    return replace(cause, text=text)


def _is_average(first: Difference) -> bool:
    """Whether a difference is of the moving average; before training too, where the stage is
    "init".
    """
    return first.stage == "average" or first.array.startswith("average/")


def _not_a_number(first: Difference) -> Cause | None:
    """That one side left the numbers, and the other did not."""
    is_broken_a = not np.isfinite(first.a)
    is_broken_b = not np.isfinite(first.b)
    if is_broken_a == is_broken_b:
        return None
    side = "a" if is_broken_a else "b"
    value = first.a if is_broken_a else first.b
    when = f"at update {first.update}" if first.update >= 0 else "before training"
    text = (
        f"{side} leaves the numbers {when}: {first.tensor or first.stage} is {value}, and the "
        "other side's is not"
    )
    return Cause("not-a-number", text, "", side, 0.0, np.inf)
