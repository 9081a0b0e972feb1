"""From the first difference of two traces to its cause."""

from collections.abc import Callable, Iterator
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
from lockstep.diagnose.causes.digits import low_precision
from lockstep.diagnose.causes.judge import BETTER, Alternative, Cause, Tensors, choose, residual
from lockstep.diagnose.causes.layers import layer_cause
from lockstep.diagnose.causes.relations import relation
from lockstep.diagnose.causes.side import Side
from lockstep.diagnose.compare import Difference
from lockstep.records.trace import Trace

__all__ = ["find_cause", "needed_detail"]


class Stage(NamedTuple):
    """How a stage is recomputed: what was recorded of it, what the recipe gives (None where its
    inputs were not recorded), and the known alternatives."""

    recorded: Callable[[Side], Tensors]
    null: Callable[[Side], Tensors | None]
    alternatives: Callable[[Side, Tensors], Iterator[Alternative]]


PASS = Stage(passes.recorded, passes.null, gradient.alternatives)
UPDATE = Stage(step.recorded, step.null, update.alternatives)
STATISTICS = Stage(
    evaluation.statistics_recorded, evaluation.statistics_null, evaluation.statistics_alternatives
)
STAGES: dict[str, Stage] = {
    "init": Stage(start.recorded, start.null, start.alternatives),
    "batch": Stage(batch.recorded, batch.null, batch.alternatives),
    "forward": PASS,
    "loss": PASS,
    "gradients": PASS,
    "clip": Stage(clip.recorded, clip.null, clip.alternatives),
    "lr": Stage(rate.recorded, rate.null, rate.alternatives),
    "moments": UPDATE,
    "update": UPDATE,
    "parameters": UPDATE,
    "average": Stage(
        evaluation.average_recorded, evaluation.average_null, evaluation.average_alternatives
    ),
    "metrics": Stage(
        evaluation.metric_recorded, evaluation.metric_null, evaluation.metric_alternatives
    ),
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
    moment = first.update if _is_average(first) else max(first.update, 0)
    sides = [
        Side(
            name,
            trace,
            moment,
            tuple(other for other in (oracle, rest) if other is not None and other is not trace),
        )
        for name, trace, rest in (("b", b, a), ("a", a, b))
    ]
    with np.errstate(all="ignore"):
        mine, its = sides[1], sides[0]
        if first.stage == "gradients" and (flip := gradient.relu_flip(mine, its)):
            return flip
        for side in sides:
            cause = None if side.is_oracle else _tested(first, side)
            if cause is not None:
                return cause
        if (broken := _not_a_number(first)) is not None:
            return broken
        if "recipe" not in a.header and (cause := layer_cause(first, mine, its)):
            return cause
        return relation(first, mine, its, oracle)


def needed_detail(first: Difference, a: Trace, b: Trace) -> tuple[int, ...]:
    """The updates that both traces must hold in detail for the causes of a difference to be tested,
    and do not.
    """
    if first.stage not in DETAILED:
        return ()
    wanted = (
        (first.update - 1, first.update)
        if first.stage in ("moments", "update", "parameters")
        else (first.update,)
    )
    return tuple(
        update
        for update in wanted
        if update >= 0
        and not all(any(k.startswith(f"detail/{update}/") for k in t.arrays) for t in (a, b))
    )


def _tested(first: Difference, side: Side) -> Cause | None:
    stage = STAGES[first.stage]
    if first.stage == "parameters" and first.tensor in side.statistics(side.update + 1):
        stage = STATISTICS
    if _is_average(first):
        stage = STAGES["average"]
    recorded, null = stage.recorded(side), stage.null(side)
    if null is None or not recorded:
        return None
    noise, tolerance = step.rounding(side) if stage is UPDATE else {}, side.tolerance
    if first.stage == "lr":
        tolerance = rate.ROUNDING.get(side.precision, side.tolerance)
        if residual(null, recorded) <= tolerance:
            return rate.rounded(side, recorded, null)
    if recorded.keys() <= null.keys() and residual(null, recorded, noise) <= tolerance / BETTER:
        return None
    chosen = choose(recorded, null, stage.alternatives(side, recorded), tolerance, side.name, noise)
    return chosen or low_precision(first, side, recorded, null)


def _is_average(first: Difference) -> bool:
    """Of the moving average; before training too, where the stage is "init"."""
    return first.stage == "average" or first.array.startswith("average/")


def _not_a_number(first: Difference) -> Cause | None:
    """One side left the numbers."""
    broken = [name for name, value in (("a", first.a), ("b", first.b)) if not np.isfinite(value)]
    if len(broken) != 1:
        return None
    value = first.a if broken == ["a"] else first.b
    when = f"at update {first.update}" if first.update >= 0 else "before training"
    text = (
        f"{broken[0]} leaves the numbers {when}: {first.tensor or first.stage} is {value}, and "
        "the other side's is not"
    )
    return Cause("not-a-number", text, "", broken[0], 0.0, np.inf)
