"""What people get wrong in an optimizer's step, tried on the rule that the other loop goes by."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import Arrays, LoopPair, LoopSide
from lockstep.diagnose.between.steps.step_arithmetic import CORRECTIONS
from lockstep.diagnose.between.steps.step_rules import (
    Remade,
    StepInputs,
    StepRule,
    inputs_of,
    remake,
)
from lockstep.diagnose.between.steps.updates import (
    follows_at,
    predicted_of,
    rule_followed,
    with_effect,
)
from lockstep.numbers import number, written
from lockstep.oracle.arithmetic import Exact

__all__ = ["same_rule_with_a_fault", "scaled_step"]

CORRECTION = "adam-without-its-correction"
FORMS = "l2-is-not-decoupled-decay"
LEAST_SHARE = 0.01
"""Relative distance of two steps from which their ratio is worth a word."""
MOST_SHOWN = 3


def same_rule_with_a_fault(pair: LoopPair) -> Iterator[Explanation]:
    """What people get wrong in a rule that the other side goes by."""
    rule = rule_followed(pair, pair.other)
    inputs = inputs_of(pair.mine, pair.update)
    if rule is None or inputs is None:
        return
    known = {name: one for name, one in rule.optimizers.items() if name in inputs.gradients}
    rule = replace(rule, optimizers=known, clip_norm=None)
    for faults in (
        _other_corrections,
        _other_counts,
        _no_step,
        _two_steps,
        _other_decays,
        _other_rates,
    ):
        yield from with_effect(pair, faults(pair, rule, inputs), rule, inputs)


def _explained(
    pair: LoopPair, key: str, text: str, remade: Remade | None, idea: str, page: str, side: str = ""
) -> Explanation:
    # what changes in the step alone must come out there too
    step = {} if remade is None or pair.first.stage != "moments" else {"update": remade.changes}
    return Explanation(key, text, predicted_of(pair, remade), idea, page, side, also=step)


def _other_corrections(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    if pair.first.stage == "moments":
        return
    mine = pair.mine.name
    optimizer = next(iter(rule.optimizers.values()))
    is_of_one = optimizer.name in ("adamax", "radam")
    idea = "moments that are not corrected for their start at 0"
    page = CORRECTION
    for words, exact in CORRECTIONS.items():
        if is_of_one and "its moments" in words:
            continue  # there it is one moment that is corrected
        inner = inputs
        if optimizer.name.startswith("nadam") and "not" in words and "its moments" in words:
            inner = _without_product(inputs)
        remade = remake(rule, inner, exact)
        if not _persists(pair, rule, exact):
            continue
        text = f"{mine} {words}{_times(pair, words, optimizer.get('beta1'))}"
        yield _explained(pair, "bias-correction", text, remade, idea, page)


def _persists(pair: LoopPair, rule: StepRule, exact: Exact | None, shift: int = 0) -> bool:
    """Whether the neighbouring updates have a fault of all updates too."""
    if next(iter(rule.optimizers.values())).name.startswith("nadam"):
        return True  # whose product of momenta is told from none by one update alone
    return all(
        follows_at(pair.mine, pair.update, rule, pair.update + step, pair.tolerance, exact, shift)
        for step in (-1, 1)
    )


def _without_product(inputs: StepInputs) -> StepInputs:
    """Memory in which the product of NAdam's momenta is 0, so that nothing is corrected by it."""
    zeros = {f"momentum_product/{name}": np.zeros(()) for name in inputs.parameters}
    return replace(inputs, memory=inputs.memory | zeros)


def _times(pair: LoopPair, words: str, beta1: float | None) -> str:
    """ "0.1 (1 - beta1) times": how long the step is beside the other's."""
    sizes = [
        math.sqrt(
            sum(float(np.square(a).sum()) for a in side.tensors("update", pair.update).values())
        )
        for side in (pair.mine, pair.other)
    ]
    if not sizes[1] or abs(sizes[0] / sizes[1] - 1) < LEAST_SHARE:
        return ""
    share = number(sizes[0] / sizes[1], 4)
    if "not correct the first" in words and beta1 is not None:
        power = f"beta1^{pair.update + 1}" if pair.update else "beta1"
        share = f"1 - {power} = {number(1 - beta1 ** (pair.update + 1), 4)}"
    return f": its step is {share} times {pair.other.name}'s at update {pair.update}"


def _other_counts(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    if pair.first.stage == "moments":
        return
    mine, count = pair.mine.name, inputs.count
    idea = "another count of the updates"
    if count:
        remade = remake(rule, replace(inputs, count=0, product_count=count))
        text = (
            f"{mine} counts update {count} as its first: the optimizer's count was forgotten, its "
            "moments were not"
        )
        yield _explained(pair, "count-forgotten", text, remade, idea, "count-forgotten", mine)
    for shift, words in ((1, "one update ahead"), (-1, "one update behind (it counts from 0)")):
        remade = remake(rule, replace(inputs, count=max(count + shift, 0)))
        if count + shift < 0 or not _persists(pair, rule, None, shift):
            continue
        text = f"{mine}'s bias correction counts {words}: t = {count + 1 + shift} for {count + 1}"
        yield _explained(pair, "bias-correction-count", text, remade, idea, CORRECTION)
    yield _counted_by_parameter(pair, rule, inputs, idea)
    for shift in (2, 3):
        if not _persists(pair, rule, None, shift):
            continue
        remade = remake(rule, replace(inputs, count=count + shift))
        text = (
            f"{mine}'s bias correction counts {count + 1 + shift} updates where there were "
            f"{count + 1}"
        )
        yield _explained(pair, "bias-correction-count", text, remade, idea, CORRECTION)


def _counted_by_parameter(
    pair: LoopPair, rule: StepRule, inputs: StepInputs, idea: str
) -> Explanation:
    """That one count serves all parameters, and each of them adds to it."""
    changes: Arrays = {}
    memory: Arrays = {}
    count = inputs.count * len(rule.optimizers)
    for name, optimizer in rule.optimizers.items():
        alone = replace(rule, optimizers={name: optimizer})
        remade = remake(alone, replace(inputs, count=count, product_count=inputs.count))
        count += 1
        if remade is not None:
            changes |= remade.changes
            memory |= remade.memory
    text = (
        f"{pair.mine.name}'s bias correction counts parameters, not updates: one count serves all "
        "of them, and each adds 1 to it"
    )
    both = Remade(changes, memory)
    return _explained(pair, "bias-correction-count", text, both, idea, CORRECTION)


def scaled_step(pair: LoopPair) -> Iterator[Explanation]:
    """That a side's step is so many times what its settings give."""
    rule = rule_followed(pair, pair.other)
    inputs = inputs_of(pair.mine, pair.update)
    rates = [side.series("lr", pair.update) for side in (pair.mine, pair.other)]
    remade = None if rule is None or inputs is None else remake(rule, inputs)
    if rule is None or remade is None or pair.first.stage == "moments" or rates[0] != rates[1]:
        return
    changes = pair.mine.tensors("update", pair.update)
    product = sum(float((changes[n] * a).sum()) for n, a in remade.changes.items() if n in changes)
    square = sum(float(np.square(array).sum()) for array in remade.changes.values())
    times = product / square if square else math.nan
    if not math.isfinite(times) or not times > 0 or abs(times - 1) < LEAST_SHARE / 10:
        return
    longer = replace(rule, rates={name: times * rate for name, rate in rule.rates.items()})
    steps = (-1, 1)
    if not all(
        follows_at(pair.mine, pair.update, longer, pair.update + step, pair.tolerance)
        for step in steps
    ):
        return
    scaled = Remade({n: times * array for n, array in remade.changes.items()}, remade.memory)
    mine, other = pair.mine.name, pair.other.name
    reported = "" if rates[0] is None else f" of {written(rates[0])} that it reports"
    text = (
        f"{mine}'s step is {number(times)} times what the learning rate{reported} gives, and "
        f"{other}'s is not: {mine} applies another rate, or writes an average into the parameters"
    )
    idea = "another learning rate than the reported one"
    yield _explained(pair, "learning-rate", text, scaled, idea, "")


def _no_step(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    mine = pair.mine.name
    still = {name: np.zeros_like(array) for name, array in inputs.parameters.items()}
    remade = remake(rule, inputs)
    recorded = pair.mine.tensors("moments", pair.update)
    memory = inputs.memory or {path: np.zeros_like(array) for path, array in recorded.items()}
    idea = "an update without a step"
    later = _every(pair)
    if remade is None:
        return
    if pair.first.stage == "moments":
        text = f"{mine} takes no step at update {pair.update}{later}: its moments stay as they were"
        unmoved = Remade(still, memory)
        yield _explained(pair, "step-skipped", text, unmoved, idea, "step-skipped")
        return
    text = f"{mine} takes no step at update {pair.update}{later}: no parameter moves"
    yield _explained(pair, "step-skipped", text, Remade(still, remade.memory), idea, "step-skipped")


def _every(pair: LoopPair) -> str:
    """ " nor at 3, 5": the other recorded updates at which nothing moves."""
    updates = [
        update
        for update in pair.mine.trace.header.get("detail", [])
        if update > pair.update and _is_still(pair.mine, update)
    ]
    if not updates:
        return ""
    more = ", ..." if len(updates) > MOST_SHOWN else ""
    return f" (nor at {', '.join(map(str, updates[:MOST_SHOWN]))}{more})"


def _is_still(side: LoopSide, update: int) -> bool:
    changes = side.tensors("update", update)
    gradients = side.tensors("gradients", update)
    return bool(changes) and not any(
        array.any() for name, array in changes.items() if name in gradients
    )


def _two_steps(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    first = remake(rule, inputs)
    if first is None:
        return
    between = {name: inputs.parameters[name] + change for name, change in first.changes.items()}
    middle = replace(inputs, parameters=between, memory=first.memory, count=inputs.count + 1)
    second = remake(rule, middle)
    if second is None:
        return
    changes = {name: first.changes[name] + second.changes[name] for name in second.changes}
    text = f"{pair.mine.name} takes its step twice at update {pair.update}, with one gradient"
    twice = Remade(changes, second.memory)
    yield _explained(pair, "step-twice", text, twice, "a step that is taken twice", "step-twice")


def _other_decays(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    """A decay at another place, or of another size, than the rule has it."""
    mine, other = pair.mine.name, pair.other.name
    decays = {name: one.decay_rate for name, one in rule.optimizers.items()}
    if not any(decays.values()):
        return
    bare = rule.changed(weight_decay=0.0)
    undecayed = remake(bare, inputs) if bare is not None else None
    if undecayed is None:
        return
    value = written(max(decays.values()))
    optimizer = next(iter(rule.optimizers.values()))
    shrunk = _shrunk(rule, inputs, decays, with_rate=False)
    text = (
        f"{mine} takes weight decay ({value}) x parameter off without the learning rate, {other} "
        "times it"
    )
    idea = "a weight decay at another place"
    changes = {name: undecayed.changes[name] - shrunk[name] for name in undecayed.changes}
    remade = Remade(changes, undecayed.memory)
    yield _explained(pair, "decay-without-rate", text, remade, idea, FORMS)
    shares = {name: rule.rates[name] * decay for name, decay in decays.items()}
    after = {
        name: undecayed.changes[name]
        - shares[name] * (inputs.parameters[name] + undecayed.changes[name])
        for name in undecayed.changes
    }
    text = f"{mine} decays after its step, {other} before it"
    remade = Remade(after, undecayed.memory)
    yield _explained(pair, "decay-after-step", text, remade, idea, FORMS)
    apart = _shrunk(rule, inputs, decays, with_rate=True)
    changes = {name: undecayed.changes[name] - apart[name] for name in undecayed.changes}
    remade = Remade(changes, undecayed.memory)
    if not optimizer.spec.decoupled:
        text = (
            f"{mine} decays the parameters themselves by {value} (decoupled), {other} adds the "
            "decay to the gradient (L2)"
        )
        page = "decay-before-the-momentum" if optimizer.get("momentum") else FORMS
        yield _explained(pair, "weight-decay-in-the-gradient", text, remade, idea, page)
    yield from _twice_decayed(pair, inputs, undecayed, apart, value)


def _shrunk(
    rule: StepRule, inputs: StepInputs, decays: Mapping[str, float], *, with_rate: bool
) -> Arrays:
    """Parameter -> decay x parameter, times its rate or not."""
    return {
        name: (rule.rates[name] if with_rate else 1.0) * decay * inputs.parameters[name]
        for name, decay in decays.items()
    }


def _twice_decayed(
    pair: LoopPair, inputs: StepInputs, undecayed: Remade, apart: Arrays, value: str
) -> Iterator[Explanation]:
    """A decay that the optimizer and the loop both take off."""
    changes = {name: undecayed.changes[name] - 2 * apart[name] for name in undecayed.changes}
    text = f"{pair.mine.name} decays twice by {value}, {pair.other.name} once"
    remade = Remade(changes, undecayed.memory)
    idea = "a weight decay at another place"
    yield _explained(pair, "weight-decay", text, remade, idea, "adamw-default-weight-decay")


def _other_rates(pair: LoopPair, rule: StepRule, inputs: StepInputs) -> Iterator[Explanation]:
    """A rate of another update than the one that both report, and steps or gradients turned
    round.
    """
    mine = pair.mine.name
    for shift, word in ((-1, "before"), (1, "after")):
        rate = pair.mine.series("lr", pair.update + shift) if pair.update + shift >= 0 else None
        now = pair.mine.series("lr", pair.update)
        if rate is None or not now or rate == now:
            continue
        rates = {name: one * rate / now for name, one in rule.rates.items()}
        remade = remake(replace(rule, rates=rates), inputs)
        text = (
            f"{mine} applies the learning rate of the update {word} this one ({written(rate)}), "
            f"and reports {written(now)}"
        )
        page = "last-lr-is-the-next-lr"
        yield _explained(pair, "learning-rate", text, remade, "the rate of another update", page)
    against = {name: -rate for name, rate in rule.rates.items()}
    text = f"{mine} climbs: its step has the other sign"
    remade = remake(replace(rule, rates=against), inputs)
    yield _explained(pair, "ascent", text, remade, "a step of the other sign", "")
    turned = {name: -array for name, array in inputs.gradients.items()}
    text = f"{mine} gives its optimizer the gradient with the other sign: it climbs"
    remade = remake(rule, replace(inputs, gradients=turned))
    yield _explained(pair, "gradient-sign", text, remade, "a gradient of the other sign", "")
