"""Three questions about this very run; the right answers come from its numbers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lockstep.numbers import number
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace

__all__ = ["Question", "build_quiz"]

CHOICES = 4
SAME = (
    0.01  # final losses this close, as a share of the one without warmup, count as about the same
)


@dataclass(frozen=True)
class Question:
    """A question, its choices, the index of the right one, and why it is right."""

    text: str
    choices: tuple[str, ...]
    right: int
    explanation: str


def build_quiz(
    recipe: Recipe,
    traces: Mapping[str, Trace],
    with_warmup: Mapping[str, Trace],
    without: Mapping[str, Trace],
) -> tuple[Question, ...]:
    """Why start low, what the learning rate is at some point, and what happens without the
    warmup.
    """
    return (
        _why_start_low(with_warmup, without),
        _which_rate(recipe, traces["torch"]),
        _without_warmup(recipe, with_warmup, without),
    )


def _why_start_low(with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]) -> Question:
    warm, cold = (side["torch"].series("update_norm") for side in (with_warmup, without))
    right = (
        "The first gradients come from untrained parameters; a low rate keeps the first "
        "updates small"
    )
    explanation = (
        f"The first update had size {number(warm[0])} with warmup and {number(cold[0])} without."
    )
    if warm[0] == 0:
        explanation += " This ramp begins at 0, so its first update changes nothing."
    elif not cold[0] > 1.01 * warm[0]:
        explanation += " In this run the warmup did not make it smaller."
    return Question(
        "Why does a warmup start with a low learning rate?",
        (
            "A low rate makes each update faster to compute",
            right,
            "It gives the two frameworks time to agree on the parameters",
            "It makes the first batches count more than the later ones",
        ),
        1,
        explanation,
    )


def _which_rate(recipe: Recipe, trace: Trace) -> Question:
    schedule, warmup = recipe.schedule, recipe.warmup
    rates, length = trace.series("lr"), int(trace.header["updates_per_epoch"])
    t = min(warmup // 2, (len(rates) if schedule.unit == "update" else len(rates) // length) - 1)
    if schedule.unit == "epoch":
        where, rate = f"in epoch {t + 1}", float(rates[t * length])
    else:
        where, rate = f"for update {t} (counted from 0)", float(rates[t])
    choices = _distinct(rate, _plausible(recipe, rate, t))
    order = sorted(choices, key=float)
    shape = f"untuned {schedule.warmup_form}" if schedule.untuned else schedule.warmup_form
    plain = all(getattr(schedule, knob) is None for knob in ("warmup_top", "least_rate"))
    straight = plain and shape == "linear" and not schedule.warmup_start and schedule.first == 1
    if warmup and not (straight and schedule.warmup_of != "schedule"):
        reason = f"W = {warmup}, and t = {t} counts from 0: the rate there is {number(rate)}"
    elif schedule.first != 1:
        reason = f"It begins at {schedule.first:g} of its peak, {number(rate)}"
    elif warmup:
        formula = schedule.ramp.replace("t", str(t)).replace("W", str(warmup))
        reason = (
            f"t = {t} and W = {warmup}, so it is {number(schedule.peak)} x {formula} = "
            f"{number(rate)}"
        )
    else:
        reason = f"The recipe has no warmup: it starts at its peak of {number(schedule.peak)}"
    return Question(
        f"The peak is {number(schedule.peak)}"
        + (
            f", and the warmup is {shape} with W = {warmup} ({schedule.unit}s)"
            if warmup and not straight
            else f", reached by the ramp {schedule.ramp} with W = {warmup} ({schedule.unit}s)"
            if warmup
            else ", without warmup"
        )
        + f". What is the learning rate {where}?",
        tuple(order),
        order.index(number(rate)),
        f"{reason}; this is what the run recorded.",
    )


def _plausible(recipe: Recipe, rate: float, t: int) -> Iterable[float]:
    """Wrong answers that come from a slip: a neighbour on the ramp, another ramp, no ramp; then any
    others.
    """
    peak, span = recipe.schedule.peak, recipe.warmup
    if span:
        yield from (peak * share / span for share in (t, t + 1, t + 2))
        yield peak
        yield peak * (t + 1) / (span + 1)
    yield from (peak / 2, peak / 5, 0.0, peak * 2, rate * 3, peak / 10, peak * 3, peak * 5)


def _distinct(rate: float, candidates: Iterable[float]) -> list[str]:
    found = [number(rate)]
    for candidate in candidates:
        text = number(candidate)
        if text not in found and abs(candidate - rate) > 0.02 * abs(rate):
            found.append(text)
        if len(found) == CHOICES:
            break
    return found


def _without_warmup(
    recipe: Recipe, with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]
) -> Question:
    warm, cold = (
        float(side["torch"].metric("held_out_loss")[-1]) for side in (with_warmup, without)
    )
    text = "What happens to the final held-out loss when this recipe is trained without its warmup?"
    if not recipe.warmup:
        text = (
            "The recipe has no warmup. How does its final held-out loss compare with that of a "
            "run with one?"
        )
    numbers = f"{number(cold)} without warmup, {number(warm)} with it"
    jax_warm, jax_cold = (
        float(side["jax"].metric("held_out_loss")[-1]) for side in (with_warmup, without)
    )
    if (number(warm), number(cold)) != (number(jax_warm), number(jax_cold)):
        numbers += f" (jax: {number(jax_cold)} and {number(jax_warm)})"
    if not math.isfinite(cold):
        right = 3
        numbers += "; with warmup it " + (
            "stays finite" if math.isfinite(warm) else "is not finite either"
        )
    elif not math.isfinite(warm):
        right = 0
        numbers += "; only the run without warmup stays finite"
    elif abs(cold - warm) <= SAME * abs(cold):
        right = 2
    else:
        right = 0 if cold < warm else 1
    if np.array_equal(with_warmup["torch"].series("lr"), without["torch"].series("lr")):
        numbers += "; both runs have the same learning rate at every update"
    return Question(
        text,
        (
            "It is lower without warmup",
            "It is higher without warmup",
            "It is about the same, to within 1 %",
            "It is no finite number: training fails without warmup",
        ),
        right,
        f"Measured: {numbers}.",
    )
