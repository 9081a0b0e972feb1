"""The causes of the divergence of two loops: explain, take away what is explained, and go on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import CHANGES, Arrays, LoopPair, LoopSide
from lockstep.diagnose.between.stages import EXPLANATIONS
from lockstep.diagnose.between.steps.step_rules import noise_of
from lockstep.diagnose.causes.alternatives import ALIKE, BETTER, Cause
from lockstep.diagnose.causes.find import find_cause
from lockstep.diagnose.causes.tensors import FLOOR, NO_NOISE, residual
from lockstep.diagnose.compare import STAGES, Bounds, Comparison, Difference
from lockstep.diagnose.local.difference import LocalDifference
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.source_lines import source_lines
from lockstep.numbers import number
from lockstep.records.trace import Trace

__all__ = ["Explained", "RuledOut", "explain"]

MOST_CAUSES = 3
FEWEST = 10
"""Elements that must come out for each number that was fitted to them."""
INDEPENDENT = ("init", "batch", "lr")
"""Stages that nothing before them in an update changes."""
STEP = ("moments", "update", "parameters")
"""Stages that the optimizer's settings show in."""

RATE_OF_STEPS = "learning-rate"
"""Key of a rate that steps show; where the recorded rates differ, it is the same cause."""


class RuledOut(NamedTuple):
    """What was tried and does not give the numbers: in words, and the relative error it leaves."""

    idea: str
    residual: float


class Explained(NamedTuple):
    """The cause of the first divergence, the causes of what it does not entail, and what was ruled
    out where the first divergence has none.
    """

    cause: Cause | None
    further: tuple[Cause, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()


class _Held(NamedTuple):
    """An explanation that gives the numbers of a side, with its residual and the one without it."""

    side: str
    explanation: Explanation
    residual: float
    null_residual: float


def explain(first: Difference, a: Trace, b: Trace, bounds: Bounds, judged: Comparison) -> Explained:
    """What makes two loops part, up to `MOST_CAUSES` causes.

    Args:
        first: where they part.
        a: a loop's trace.
        b: another's, in the names and layouts of `a`.
        bounds: what rounding may do to each array.
        judged: their comparison, with the settings measured on both sides.
    """
    pair = LoopPair(LoopSide("b", b), LoopSide("a", a), first, bounds)
    causes: list[Cause] = []
    ruled_out: tuple[RuledOut, ...] = ()
    explained: set[str] = set()
    with np.errstate(all="ignore"):
        while len(causes) < MOST_CAUSES:
            cause, names, ruled = _cause_at(pair, judged.local, explained)
            if cause is None:
                ruled_out = ruled if not causes else ()
                break
            causes.append(cause)
            explained |= names
            if not names or explained >= set(_to_explain(pair)):
                break
        later = _later_causes(pair, judged, causes)
    placed = [_with_lines(cause, pair) for cause in [*causes, *later][:MOST_CAUSES]]
    if causes:
        return Explained(placed[0], tuple(placed[1:]))
    return Explained(None, tuple(placed), ruled_out)


def _with_lines(cause: Cause, pair: LoopPair) -> Cause:
    """The cause with its place, and both sides' lines of source where they are known."""
    if not cause.stage:
        first = pair.first
        cause = replace(cause, stage=first.stage, update=first.update, tensor=first.tensor)
    lines = {
        side.name: source_lines(side.trace, cause.update, cause.stage, cause.tensor)
        for side in (pair.other, pair.mine)
    }
    return replace(cause, lines={name: known for name, known in lines.items() if known})


def _cause_at(
    pair: LoopPair, local: Sequence[LocalDifference], explained: set[str]
) -> tuple[Cause | None, set[str], tuple[RuledOut, ...]]:
    """The cause of what differs at the pair's place and is not explained; the tensors that it
    explains where these are only a part; and what was ruled out.
    """
    held: list[_Held] = []
    tried: dict[str, float] = {}
    for side in (pair, pair.swapped):
        left = set(_to_explain(side)) - explained
        for explanation in _explanations(side):
            error, without = _residuals(side, explanation, left, explained)
            if _holds(side, explanation, error, without):
                held.append(_Held(side.mine.name, explanation, error, without))
            elif np.isfinite(error):
                tried[explanation.idea] = min(error, tried.get(explanation.idea, np.inf))
    exact = [entry for entry in held if not entry.explanation.free]
    if exact:
        return _chosen(exact, pair)
    measured = _measured_cause(pair.first, local) if not explained else None
    if measured is not None:
        return measured, set(), ()
    if held:
        return _chosen(held, pair)
    cause = None
    if not explained and not pair.first.quantity:
        cause = find_cause(pair.first, pair.other.trace, pair.mine.trace)
    ranked = sorted(tried.items(), key=lambda entry: entry[1])
    return cause, set(), tuple(RuledOut(*entry) for entry in ranked)


def _explanations(pair: LoopPair) -> Iterator[Explanation]:
    for explanations in EXPLANATIONS.get(pair.first.stage, ()):
        yield from explanations(pair)


def _to_explain(pair: LoopPair) -> list[str]:
    """The tensors of the stage that differ; of the layers forward the first alone, which the others
    follow from.
    """
    if pair.first.stage == "forward":
        return [pair.first.tensor]
    return pair.differing(pair.first.stage)


def _residuals(
    pair: LoopPair, explanation: Explanation, left: set[str], explained: set[str]
) -> tuple[float, float]:
    """The relative error with an explanation and without it; infinite where it leaves out any of
    what is left to explain.
    """
    stage = explanation.stage or pair.first.stage
    update = pair.update if explanation.update is None else explanation.update
    mine = pair.mine.tensors(stage, update)
    other = pair.other.tensors(stage, update)
    predicted = explanation.predicted
    must = set() if explanation.stage else left
    if not predicted or (not explanation.is_part and not must <= predicted.keys()):
        return np.inf, np.inf
    if explanation.is_part and predicted.keys() <= explained:
        return np.inf, np.inf
    recorded = {name: mine[name] for name in predicted if name in mine}
    if recorded.keys() != predicted.keys():
        return np.inf, np.inf
    noise = noise_of(pair.mine, update) if stage in CHANGES else NO_NOISE
    error = residual(_flat(predicted), _flat(recorded), noise)
    for also, tensors in explanation.also.items():
        own = noise_of(pair.mine, update) if also in CHANGES else NO_NOISE
        entailed = residual(_flat(tensors), _flat(pair.mine.tensors(also, update)), own)
        error = max(error, entailed)
    null = {name: other[name] for name in predicted if name in other}
    without = np.inf
    if null.keys() == predicted.keys():
        without = residual(_flat(null), _flat(recorded), noise)
    return error, without


def _flat(tensors: Arrays) -> Arrays:
    return {name: array.astype(np.float64) for name, array in tensors.items()}


def _holds(pair: LoopPair, explanation: Explanation, error: float, without: float) -> bool:
    tolerance = pair.tolerance_at(pair.first.stage)
    if not (error <= tolerance and max(error * BETTER, tolerance / BETTER) < without):
        return False
    if not explanation.free:
        return True
    elements = sum(array.size for array in explanation.predicted.values())
    return not explanation.is_part and elements >= FEWEST * explanation.free


def _chosen(
    candidates: Sequence[_Held], pair: LoopPair
) -> tuple[Cause, set[str], tuple[RuledOut, ...]]:
    """The first of the explanations that leave least, with the runner-up of another kind."""
    enough = max(min(entry.residual for entry in candidates) * ALIKE, pair.tolerance * FLOOR)
    best = next(entry for entry in candidates if entry.residual <= enough)
    chosen = best.explanation
    # a number that is fitted beside an exact explanation explains anything: it is no rival
    others = [
        entry
        for entry in candidates
        if entry.explanation.key != chosen.key
        and not chosen.text.startswith(entry.explanation.text)  # the same, in fewer words
    ]
    runner_up = min(others, key=lambda entry: entry.residual, default=None)
    side = chosen.side
    is_open = False
    if runner_up is not None and runner_up.residual <= enough:
        is_open = True
        side = chosen.side if runner_up.explanation.side == chosen.side else ""
    is_here = not chosen.stage and chosen.update is None
    predicted = {
        f"{best.side}|{name}": array for name, array in chosen.predicted.items() if is_here
    }
    cause = Cause(
        chosen.key,
        chosen.text,
        chosen.page,
        side,
        best.residual,
        best.null_residual,
        stage=pair.first.stage,
        update=pair.update,
        tensor=pair.first.tensor,
        runner_up="" if runner_up is None else runner_up.explanation.text,
        runner_up_residual=np.inf if runner_up is None else runner_up.residual,
        is_open=is_open,
        predicted=predicted,
    )
    return cause, set(chosen.predicted) if chosen.is_part else set(), ()


def _later_causes(pair: LoopPair, judged: Comparison, causes: Sequence[Cause]) -> list[Cause]:
    """Causes of other things that differ, which the first does not entail: stages that nothing
    before them changes, and settings that each side's own tensors give.
    """
    later: list[Cause] = []
    known = {cause.key for cause in causes}
    for stage in INDEPENDENT:
        if stage == pair.first.stage:
            continue
        place = next((place for place in judged.parted if place.stage == stage), None)
        if place is None or place.quantity:
            continue
        at = _at(pair, place)
        cause, _, _ = _cause_at(at, judged.local, set())
        if cause is not None and cause.key not in known:
            known.add(cause.key)
            later.append(cause)
    if any(cause.stage == "lr" for cause in (*causes, *later)):
        known.add(RATE_OF_STEPS)
    # a step that is explained otherwise, or not at all, says nothing of the optimizer's settings
    is_step_known = pair.first.stage not in STEP or any(cause.evidence for cause in causes)
    layers = {(cause.stage, cause.tensor) for cause in causes if cause.stage == "forward"}
    for setting in judged.local:
        is_of_clip = setting.a.stage == pair.first.stage == "clip"
        # a relation of the sides' gradients follows from whatever came before it
        is_entailed = is_of_clip or setting.a.stage == "gradients"
        if is_entailed or (setting.a.stage in STEP and not is_step_known):
            continue
        if setting.key not in known and (setting.a.stage, setting.a.tensor) not in layers:
            known.add(setting.key)
            later.append(_cause_of_setting(setting))
    return sorted(later, key=lambda cause: (cause.update, STAGES.index(cause.stage)))


def _at(pair: LoopPair, first: Difference) -> LoopPair:
    """The same two loops at another place."""
    return replace(pair, first=first)


def _measured_cause(first: Difference, local: Sequence[LocalDifference]) -> Cause | None:
    """The setting that was measured otherwise on either side where the two part."""
    for setting in local:
        is_here = setting.a.update == first.update
        if is_here and _is_of_stage(first, setting.a.stage, setting.a.tensor):
            return _cause_of_setting(setting)
    return None


def _cause_of_setting(setting: LocalDifference) -> Cause:
    a, b = setting.a, setting.b
    evidence = f"measured from each side's own tensors: a {_measured(a)}, b {_measured(b)}"
    return Cause(
        setting.key,
        setting.text,
        setting.page,
        "",
        0.0,
        0.0,
        evidence,
        stage=a.stage,
        update=a.update,
        tensor=a.tensor,
    )


def _measured(measurement: Measurement) -> str:
    """A value with its standard error, where it has one."""
    value = number(measurement.value, 3)
    return f"{value} ± {number(measurement.error, 1)}" if measurement.error else value


def _is_of_stage(first: Difference, stage: str, tensor: str) -> bool:
    """Whether a setting of this stage and tensor shows where two loops part."""
    if stage == "forward":
        return first.stage == stage and first.tensor in (tensor, f"{tensor}.input")
    if stage in STEP:
        return first.stage in STEP
    return first.stage == stage
