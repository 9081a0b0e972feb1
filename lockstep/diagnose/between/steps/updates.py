"""What the step of one loop is of the other's: another rule, or the same with a fault in it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import Arrays, LoopPair, LoopSide
from lockstep.diagnose.between.steps.side_rules import rules_of
from lockstep.diagnose.between.steps.step_rules import (
    Remade,
    StepInputs,
    StepRule,
    follows,
    inputs_of,
    remake,
)
from lockstep.diagnose.between.steps.step_words import RuleGap, named, rule_gaps
from lockstep.diagnose.causes.tensors import residual
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Exact

__all__ = [
    "follows_at",
    "not_trained",
    "other_rule",
    "predicted_of",
    "rule_followed",
    "with_effect",
]

DECLARED = 1e-4
"""Relative distance within which a side does what it declared."""
MANY = 100_000
"""Elements of all gradients from which a rule is first tried on a few tensors."""
FEW = 3
MOST_RULES = 200
"""Guesses at a rule that are tried."""


def rule_followed(pair: LoopPair, side: LoopSide) -> StepRule | None:
    """The rule that gives what a side recorded at the pair's update; None where none is known."""
    if pair.update not in side.rules_followed:
        side.rules_followed[pair.update] = _rule_followed(pair, side)
    rule: StepRule | None = side.rules_followed[pair.update]
    return rule


def _rule_followed(pair: LoopPair, side: LoopSide) -> StepRule | None:
    inputs = inputs_of(side, pair.update)
    if inputs is None:
        return None
    few = _few(inputs)
    near = pair.tolerance
    for number_tried, rule in enumerate(rules_of(side, pair.update)):
        if not follows(side, pair.update, rule, few, near):
            continue
        if few is not inputs and not follows(side, pair.update, rule, inputs, near):
            continue
        if rule.is_stated or follows_at(side, pair.update, rule, pair.update + 1, near):
            return rule
        if number_tried > MOST_RULES:
            break
    return None


def follows_at(
    side: LoopSide,
    update: int,
    rule: StepRule,
    another: int,
    near: float,
    exact: Exact | None = None,
    shift: int = 0,
) -> bool:
    """Whether a rule of an update gives another one too; True where that was not recorded.

    At one update two rules may give one step: with betas of 0.9 and 0.99 moments that are not
    corrected differ from corrected ones in eps alone. `shift` is added to the updates that were
    counted.
    """
    inputs = inputs_of(side, another) if another >= 0 else None
    rate, other_rate = side.series("lr", update), side.series("lr", another)
    if inputs is None or not side.tensors("update", another):
        return True
    if rate and other_rate is not None:
        times = other_rate / rate
        rule = replace(rule, rates={name: times * own for name, own in rule.rates.items()})
    if shift:
        inputs = replace(inputs, count=max(another + shift, 0), product_count=another)
    if remake(rule, inputs, exact) is None:
        return True  # its memory was not recorded by these names
    return follows(side, another, rule, inputs, near, exact)


def _few(inputs: StepInputs) -> StepInputs:
    """The inputs of some small tensors, by which most rules are ruled out; all where they are few
    anyway.
    """
    sizes = {name: array.size for name, array in inputs.gradients.items()}
    if sum(sizes.values()) <= MANY or not inputs.is_given:
        return inputs  # an optimizer that clips needs the norm of all
    ordered = sorted(sizes, key=lambda name: sizes[name])
    matrices = [name for name in ordered if inputs.gradients[name].ndim > 1][:FEW]
    names = dict.fromkeys([*ordered[:FEW], *matrices])
    return replace(inputs, gradients={name: inputs.gradients[name] for name in names})


def predicted_of(pair: LoopPair, remade: Remade | None) -> Arrays:
    """The tensors of the stage at which the sides part, of a step made again."""
    if remade is None:
        return {}
    if pair.first.stage != "moments":
        return remade.changes
    recorded = pair.mine.tensors("moments", pair.update)
    predicted: Arrays = {}
    for path in recorded:
        slot, _, name = path.partition("/")
        for known in (path, f"{ALIAS.get(slot, slot)}/{name}"):
            if known in remade.memory and remade.memory[known].shape == recorded[path].shape:
                predicted[path] = remade.memory[known]
                break
    return predicted


ALIAS = {"exp_inf": "infinity"}


def with_effect(
    pair: LoopPair, explanations: Iterator[Explanation], rule: StepRule, inputs: StepInputs
) -> Iterator[Explanation]:
    """The explanations that give other numbers than the rule as it is: a fault that changes nothing
    explains nothing.
    """
    plain = predicted_of(pair, remake(rule, inputs))
    for explanation in explanations:
        known = {name: plain[name] for name in explanation.predicted if name in plain}
        is_idle = known.keys() == explanation.predicted.keys() and not (
            residual(known, explanation.predicted) > pair.tolerance / 10
        )
        if not is_idle:
            yield explanation


# ---- parameters that are left out


def not_trained(pair: LoopPair) -> Iterator[Explanation]:
    """That a side leaves parameters as they are although they have gradients."""
    mine, other = pair.mine, pair.other
    changes = mine.tensors("update", pair.update)
    others = other.tensors("update", pair.update)
    gradients = mine.tensors("gradients", pair.update)
    still = [
        name
        for name, array in changes.items()
        if name in gradients
        and gradients[name].any()
        and not array.any()
        and others.get(name, array).any()
    ]
    moving = [name for name, array in changes.items() if name in gradients and array.any()]
    if not still or not moving:
        return
    listed = {
        name
        for optimizer in mine.reading.get("optimizers") or ()
        for group in optimizer.get("groups") or ()
        for name in group.get("parameters") or ()
    }
    why = "not in its optimizer" if listed and not listed & set(still) else "frozen"
    verb = "has a gradient and does" if len(still) == 1 else "have gradients and do"
    text = f"{mine.name} does not train {named(still)}, which {verb} not move ({why})"
    zeros = {name: changes[name] for name in still}
    idea = "parameters that are left out"
    page = "parameters-not-trained"
    yield Explanation("not-trained", text, zeros, idea, page, is_part=True)


# ---- another rule


def other_rule(pair: LoopPair) -> Iterator[Explanation]:
    """That the sides go by two rules, or by one with other settings, which both are known."""
    own, others = rule_followed(pair, pair.mine), rule_followed(pair, pair.other)
    inputs = inputs_of(pair.mine, pair.update)
    if own is None or others is None or inputs is None:
        return
    remade = remake(own, inputs)
    rules = {pair.mine.name: own, pair.other.name: others}
    ndims = {name: _ndim(array.shape) for name, array in inputs.parameters.items()}
    if set(own.optimizers) != set(others.optimizers):
        return
    gaps = [
        gap
        for gap in rule_gaps(rules, pair.mine.name, ndims)
        if _has_effect(pair, gap, remade, inputs) and not _is_of_series(pair, gap)
    ]
    if not gaps:
        return
    text = "; ".join(_with_numbers(pair, gap, own, others) for gap in gaps)
    predicted = predicted_of(pair, remade)
    idea = "another optimizer, or other settings of it"
    side = _who_departs(pair, gaps[0], own, others)
    yield Explanation(gaps[0].key, text, predicted, idea, gaps[0].page, side)


def _is_of_series(pair: LoopPair, gap: RuleGap) -> bool:
    """Whether a learning rate differs that the loops report, which is a matter of its own."""
    rates = [side.series("lr", pair.update) for side in (pair.mine, pair.other)]
    return gap.key == "learning-rate" and rates[0] != rates[1]


def _ndim(shape: tuple[int, ...]) -> int:
    return sum(length > 1 for length in shape)


def _has_effect(pair: LoopPair, gap: RuleGap, remade: Remade | None, inputs: StepInputs) -> bool:
    """Whether a setting matters for the tensors at which the sides part."""
    if gap.without is None:
        return True
    without = remake(gap.without, inputs)
    tensors, others = predicted_of(pair, remade), predicted_of(pair, without)
    if not tensors or tensors.keys() != others.keys():
        return True
    return residual(tensors, others) > pair.tolerance


def _with_numbers(pair: LoopPair, gap: RuleGap, own: StepRule, others: StepRule) -> str:
    """A clause, with the size of the step where it follows from a setting."""
    if gap.key != "nesterov" or pair.update:
        return gap.text
    optimizer = next(iter(own.optimizers.values()))
    momentum = optimizer.get("momentum")
    ahead, behind = ("b", "a") if gap.text.startswith("b") else ("a", "b")
    if optimizer.name != "sgd" or not momentum:
        return gap.text
    return (
        f"{ahead} takes Nesterov's step: {number(1 + momentum)} times {behind}'s at update 0 "
        "(1 + momentum)"
    )


def _who_departs(pair: LoopPair, gap: RuleGap, own: StepRule, others: StepRule) -> str:
    """The side that goes by another value of a setting than it declared, where the other side goes
    by its own.
    """
    follows_own: dict[str, bool] = {}
    for side, rule in ((pair.mine, own), (pair.other, others)):
        declared = side.settings.get("optimizer")
        knob = gap.key.removesuffix("-in-the-gradient").replace("-", "_")
        value = declared.get(knob) if isinstance(declared, Mapping) else None
        used = {optimizer.get(knob) for optimizer in rule.optimizers.values()}
        if knob == "weight_decay" and value:
            used -= {0.0}  # of parameters that are left out
        if isinstance(value, int | float) and used:
            follows_own[side.name] = any(_is_near(value, one) for one in used)
    departs = [name for name, is_so in follows_own.items() if not is_so]
    return departs[0] if len(departs) == 1 and len(follows_own) == 2 else ""


def _is_near(declared: float, used: object) -> bool:
    return isinstance(used, int | float) and math.isclose(declared, used, rel_tol=DECLARED)
