"""What an optimizer's memory in one loop is of the other's: forgotten, of another parameter, of
another update or of another gradient.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import Arrays, LoopPair, LoopSide
from lockstep.diagnose.between.steps.clip_ways import ClipWay, clip_way
from lockstep.diagnose.between.steps.clips import clause_of
from lockstep.diagnose.between.steps.step_rules import (
    Remade,
    StepInputs,
    StepRule,
    inputs_of,
    remake,
)
from lockstep.diagnose.between.steps.updates import predicted_of, rule_followed, with_effect
from lockstep.diagnose.causes.precision import rounded_to
from lockstep.diagnose.causes.tensors import residual
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array
from lockstep.recipe import Optimizer

__all__ = ["memory_of_another_kind", "of_another_gradient", "rounded_memory"]

FORMATS = ("bfloat16", "float16", "float32")
MEANS = ("first", "momentum", "mean")
MOST_SHOWN = 2
FACTORS = ("norm", "part")
"""Kinds of clip that are a factor on whole tensors."""
NEAR_BOUND = 1e-4
"""Relative distance of two norms that are one bound, whatever is added to the norm."""
OTHER_FACTOR = 0.01
LONG_AGO = 3
"""Updates back to which a memory may be."""


def memory_of_another_kind(pair: LoopPair) -> Iterator[Explanation]:
    """That a side steps with another memory than it had: none, of other parameters, or an older
    one.
    """
    rule, inputs = _rule_and_inputs(pair)
    if inputs is None and pair.update:  # a memory that is gone when it should have been recorded
        inputs = _with_memory_of_other(pair)
        rule = rule or rule_followed(pair, pair.other)
    if rule is None or inputs is None or not inputs.memory:
        return
    for memories in (_forgotten, _swapped, _older):
        yield from with_effect(pair, memories(pair, rule, inputs), rule, inputs)


def _rule_and_inputs(pair: LoopPair) -> tuple[StepRule | None, StepInputs | None]:
    rule = rule_followed(pair, pair.other)
    inputs = inputs_of(pair.mine, pair.update)
    if rule is None or inputs is None:
        return None, None
    known = {name: one for name, one in rule.optimizers.items() if name in inputs.gradients}
    return replace(rule, optimizers=known, clip_norm=None), inputs


def _with_memory_of_other(pair: LoopPair) -> StepInputs | None:
    """The inputs of a side that recorded no memory, with that of the other side, which agrees up to
    here.
    """
    memory = pair.other.tensors("moments", pair.update - 1)
    own = pair.mine.tensors("moments", pair.update)
    return inputs_of(pair.mine, pair.update, memory) if memory and own else None


def _forgotten(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    mine, update = pair.mine.name, pair.update
    idea = "a memory that was forgotten"
    optimizer = next(iter(rule.optimizers.values()))
    page = "momentum-buffer-forgotten" if optimizer.name == "sgd" else "opt-state-forgotten"
    zeros = {path: np.zeros_like(array) for path, array in inputs.memory.items()}
    slots = sorted({path.partition("/")[0] for path in inputs.memory})
    what = "momentum" if optimizer.name == "sgd" else "memory"
    text = f"{mine} forgot the optimizer's {what} before update {update}: it begins again"
    fresh: tuple[tuple[str, Arrays, int], ...] = (
        (text, {}, 0),
        (f"{text} from 0, and its count goes on", {}, inputs.count),
        (f"{text} from 0", zeros, 0),
        (f"{text} from 0, and its count goes on", zeros, inputs.count),
    )
    for words, memory, count in fresh:
        fresh_inputs = replace(inputs, memory=memory, count=count, is_fresh=True)
        remade = remake(rule, fresh_inputs)
        yield _explained(pair, "state-forgotten", words, remade, idea, page)
    for slot in slots if len(slots) > 1 else ():
        own = {p: zeros[p] if p.startswith(f"{slot}/") else a for p, a in inputs.memory.items()}
        words = f"{mine} forgot the optimizer's {slot} moment before update {update}: it is 0"
        remade = remake(rule, replace(inputs, memory=own))
        yield _explained(pair, "state-forgotten", words, remade, idea, page)


def _explained(
    pair: LoopPair, key: str, text: str, remade: Remade | None, idea: str, page: str
) -> Explanation:
    """An explanation by a side's own memory before, which it did not go on with."""
    return Explanation(key, text, predicted_of(pair, remade), idea, page, pair.mine.name)


def _swapped(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    """Each parameter with the memory of the one of its shape that comes nearest."""
    recorded = pair.mine.tensors("moments", pair.update)
    others = pair.other.tensors("moments", pair.update)
    slots = sorted({path.partition("/")[0] for path in inputs.memory})
    best: dict[str, str] = {}
    for name in inputs.parameters:
        best[name] = _source(name, slots, rule, inputs, recorded)
    moved = {name: source for name, source in best.items() if name != source}
    if not moved or len(set(best.values())) < len(best):
        return
    memory = {
        f"{slot}/{name}": inputs.memory[f"{slot}/{best[name]}"]
        for slot in slots
        for name in best
        if f"{slot}/{best[name]}" in inputs.memory
    }
    remade = remake(rule, replace(inputs, memory=memory))
    text = _text_of_swap(pair, moved, slots, bool(others))
    idea = "memories of other parameters"
    yield _explained(pair, "moments-by-position", text, remade, idea, "moments-by-position")


def _source(
    name: str, slots: list[str], rule: StepRule, inputs: StepInputs, recorded: Arrays
) -> str:
    """The parameter whose memory before gives what was recorded of this one."""
    own = rule.optimizers[name]
    alone = replace(rule, optimizers={name: own})
    errors: dict[str, float] = {}
    for source, array in inputs.parameters.items():
        if array.shape != inputs.parameters[name].shape:
            continue
        memory = {
            f"{slot}/{name}": inputs.memory[f"{slot}/{source}"]
            for slot in slots
            if f"{slot}/{source}" in inputs.memory
        }
        remade = remake(alone, replace(inputs, memory=memory))
        if remade is not None:
            gaps = [
                float(np.abs(remade.memory[path] - recorded[path]).max(initial=0.0))
                for path in remade.memory
                if path in recorded and recorded[path].shape == remade.memory[path].shape
            ]
            errors[source] = max(gaps, default=math.inf)
    best = min(errors, key=lambda source: errors[source], default=name)
    return name if errors.get(name) == errors.get(best) else best


def _text_of_swap(pair: LoopPair, moved: dict[str, str], slots: list[str], is_of_both: bool) -> str:
    mine, other = pair.mine.name, pair.other.name
    what = slots[0] if len(slots) == 1 else "memory"
    name, source = next(iter(moved.items()))
    text = f"{mine}'s {what} of {name} is {other}'s of {source}"
    rest = dict(moved)
    rest.pop(name)
    if moved.get(source) == name:
        text += ", and the other way round"
        rest.pop(source)
    elif rest:
        shown = [f"of {one} {other}'s of {two}" for one, two in list(rest.items())[:MOST_SHOWN]]
        text += ", " + ", ".join(shown)
        rest = dict(list(rest.items())[MOST_SHOWN:])
    more = f" ({len(rest)} more)" if rest else ""
    return f"{text}{more}: bound by position, not by name"


def _older(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    """The memory of an earlier update, as of a checkpoint that is too old."""
    for back in range(2, LONG_AGO + 2):
        update = pair.update - back
        memory = pair.mine.tensors("moments", update) if update >= 0 else {}
        if not memory:
            continue
        text = (
            f"{pair.mine.name} goes on at update {pair.update} with the optimizer's memory of "
            f"after update {update}"
        )
        for count in (inputs.count, update + 1):
            remade = remake(rule, replace(inputs, memory=memory, count=count))
            yield _explained(
                pair, "state-stale", text, remade, "an older memory", "opt-state-forgotten"
            )


# ---- dtypes


def rounded_memory(pair: LoopPair) -> Iterator[Explanation]:
    """That a side keeps its memory in fewer bits."""
    rule, inputs = _rule_and_inputs(pair)
    remade = None if rule is None or inputs is None else remake(rule, inputs)
    if remade is None or pair.first.stage != "moments":
        return
    recorded = pair.mine.tensors("moments", pair.update)
    others = pair.other.tensors("moments", pair.update)
    exact = predicted_of(pair, remade)
    for name in FORMATS:
        rounding = partial(rounded_to, name)
        slots = sorted({path.partition("/")[0] for path in exact})
        for group in (slots, *([slot] for slot in slots if len(slots) > 1)):
            low = {
                path: rounding(array) if path.partition("/")[0] in group else array
                for path, array in exact.items()
            }
            paths = [path for path in low if path.partition("/")[0] in group]
            whole = all(_is_of(name, recorded[path]) for path in paths)
            if not whole:
                continue  # another cause may come as near, but not with such numbers
            if all(_is_of(name, others[path]) for path in paths if path in others):
                continue  # both keep no more bits
            what = "moments" if group == slots else f"{group[0]} moment"
            text = f"{pair.mine.name} keeps its {what} in {name}"
            idea = "moments of fewer bits"
            yield Explanation("moments-rounded", text, low, idea, "moments-in-bfloat16")


def _is_of(name: str, array: Array) -> bool:
    """Whether an array holds numbers of a format alone."""
    return bool((rounded_to(name, array) == array).all())


# ---- gradients


def of_another_gradient(pair: LoopPair) -> Iterator[Explanation]:
    """That a side's optimizer is given another gradient than its own of this update."""
    rule, inputs = _rule_and_inputs(pair)
    if rule is None or inputs is None:
        return
    mine = pair.mine.name
    raw = pair.mine.tensors("gradients", pair.update)
    raw = {name: raw[name] for name in inputs.gradients if name in raw}
    idea = "another gradient for the optimizer"
    is_clipped = raw.keys() == inputs.gradients.keys() and bool(
        residual(raw, inputs.gradients) > pair.tolerance
    )
    if inputs.is_given and is_clipped:
        text = f"{mine} gives its optimizer the gradient as it was before clipping"
        yield _of_gradient(pair, rule, inputs, raw, "clip-missing", text, "clip-forgotten")
    before = _given(pair.mine, pair.update - 1, inputs)
    if before:
        text = f"{mine} gives its optimizer the gradient of the update before"
        page = "forgotten-zero-grad"
        yield _of_gradient(pair, rule, inputs, before, "gradient-stale", text, page)
        summed = {name: inputs.gradients[name] + before[name] for name in before}
        text = f"{mine} gives its optimizer its gradient plus that of the update before"
        yield _of_gradient(pair, rule, inputs, summed, "gradient-stale", text, page)
    yield from _damped(pair, rule, inputs)
    yield from _clipped_inside(pair, rule, inputs, idea)


def _given(side: LoopSide, update: int, inputs: StepInputs) -> Arrays:
    """The gradients that an optimizer was given at another update."""
    if update < 0:
        return {}
    tensors = side.tensors("clip", update) or side.tensors("gradients", update)
    if not tensors.keys() >= inputs.gradients.keys():
        return {}
    return {name: tensors[name] for name in inputs.gradients}


def _of_gradient(
    pair: LoopPair,
    rule: StepRule,
    inputs: StepInputs,
    gradients: Arrays,
    key: str,
    text: str,
    page: str,
) -> Explanation:
    remade = remake(rule, replace(inputs, gradients=gradients))
    predicted = predicted_of(pair, remade)
    return Explanation(key, text, predicted, "another gradient for the optimizer", page)


def _damped(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    """That only a share of the gradient enters a momentum."""
    optimizer = next(iter(rule.optimizers.values()))
    momentum, dampening = optimizer.get("momentum"), optimizer.get("dampening")
    if optimizer.name != "sgd" or not momentum:
        return
    mine, other = pair.mine.name, pair.other.name
    share = 1 - momentum
    text = (
        f"{mine}'s momentum is a mean: 1 - momentum = {number(share)} of the gradient enters it, "
        f"the whole in {other}"
    )
    page = "dampening-spares-the-first-step"
    if not dampening:
        part = {name: share * array for name, array in inputs.gradients.items()}
        yield _of_gradient(pair, rule, inputs, part, "dampening", text, page)
    elif not pair.update:
        part = {name: (1 - dampening) * array for name, array in inputs.gradients.items()}
        text = f"{mine} dampens the first gradient too (1 - dampening = {number(1 - dampening)})"
        yield _of_gradient(pair, rule, inputs, part, "dampening", text, page)


def _clipped_inside(
    pair: LoopPair, rule: StepRule, inputs: StepInputs, idea: str
) -> Iterator[Explanation]:
    """That a side clips within its optimizer, where its clipped gradients were not recorded."""
    given = {
        side.name: entered_gradients(pair, side, rule, pair.update)
        for side in (pair.mine, pair.other)
    }
    near = pair.tolerance / 10
    ways = {}
    for side in (pair.mine, pair.other):
        entered = given[side.name]
        raw = side.tensors("gradients", pair.update)
        ways[side.name] = clip_way(raw, entered, near) if entered else None
    way, others = ways[pair.mine.name], ways[pair.other.name]
    if way is None or others is None:
        return
    if not all(
        _is_confirmed(pair, side, rule, ways[side.name]) for side in (pair.mine, pair.other)
    ):
        return
    clause = clause_of(pair, way, others)
    if clause is not None:
        remade = remake(rule, replace(inputs, gradients=way.predicted))
        predicted = predicted_of(pair, remade)
        yield Explanation(clause.key, clause.text, predicted, idea, clause.page)


def _is_confirmed(pair: LoopPair, side: LoopSide, rule: StepRule, way: ClipWay | None) -> bool:
    """Whether a factor on the gradient is a clip: it was recorded as one, the optimizer has one by
    its settings, or another update is scaled to the same norm by another factor.

    A factor alone may as well be a learning rate, or another beta.
    """
    if way is None or side.tensors("clip", pair.update) or way.kind not in FACTORS:
        return True
    if any("clip" in str(one.get("class")) for one in side.reading.get("optimizers") or ()):
        return True
    for update in side.trace.header.get("detail", []):
        if update == pair.update:
            continue
        entered = entered_gradients(pair, side, rule, update)
        raw = side.tensors("gradients", update)
        again = clip_way(raw, entered, pair.tolerance / 10) if entered else None
        if again is None or again.kind != way.kind:
            continue
        is_same_bound = abs(again.bound / way.bound - 1) < NEAR_BOUND
        if is_same_bound and abs(again.factor / way.factor - 1) > OTHER_FACTOR:
            return True
    return False


def entered_gradients(pair: LoopPair, side: LoopSide, rule: StepRule, update: int) -> Arrays:
    """The gradients that entered the memory of a side, or its step where it has none; empty where
    these do not tell.
    """
    clipped = side.tensors("clip", update)
    if clipped:
        return clipped
    inputs = inputs_of(side, update)
    if inputs is None:
        return {}
    gradients: Arrays = {}
    recorded = side.tensors("moments", update)
    changes = side.tensors("update", update)
    for name, optimizer in rule.optimizers.items():
        if optimizer.decay_rate and not optimizer.spec.decoupled:
            return {}
        slot = next((one for one in MEANS if f"{one}/{name}" in recorded), None)
        if slot is None:
            if optimizer.name != "sgd" or optimizer.get("momentum") or not rule.rates[name]:
                return {}
            gradients[name] = -changes[name] / rule.rates[name]
            continue
        kept, entered = _shares(optimizer, slot, inputs)
        if kept is None or not entered:
            return {}
        before = inputs.memory.get(f"{slot}/{name}", 0.0)
        gradients[name] = (recorded[f"{slot}/{name}"] - kept * before) / entered
    return gradients


def _shares(optimizer: Optimizer, slot: str, inputs: StepInputs) -> tuple[float | None, float]:
    """What a slot keeps of itself, and the share of the gradient that enters it."""
    if slot == "first":
        beta = optimizer.get("beta2" if optimizer.name == "lion" else "beta1")
        return beta, 0.0 if beta is None else 1 - beta
    momentum = optimizer.get("momentum")
    if slot == "mean":
        return momentum, 0.0 if momentum is None else 1 - momentum
    dampening = (optimizer.get("dampening") or 0.0) if inputs.memory else 0.0
    return momentum, 1 - dampening
