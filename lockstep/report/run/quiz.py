"""Three questions about this very run; the right answers come from its numbers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lockstep.numbers import number
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.report.run.epochs import pair

__all__ = ["Question", "build_quiz"]

CHOICES = 4
SAME = 0.01
"""How close two final losses are about the same, as a share of the one without warmup."""


@dataclass(frozen=True)
class Question:
    """A question, its choices, and why one of them is right."""

    text: str
    choices: tuple[str, ...]
    right: int
    """The index of the right choice."""
    explanation: str


def build_quiz(
    recipe: Recipe,
    traces: Mapping[str, Trace],
    with_warmup: Mapping[str, Trace],
    without: Mapping[str, Trace],
) -> tuple[Question, ...]:
    """Three questions: why start low, which learning rate, and what happens without the warmup.

    Args:
        recipe: what was trained.
        traces: the traces "torch" and "jax" of the run.
        with_warmup: the traces of the run, or of its contrast, that has a warmup.
        without: the traces of the other.
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
    schedule = recipe.schedule
    rates_T = trace.series("lr")
    length = int(trace.header["updates_per_epoch"])
    units = len(rates_T) if schedule.unit == "update" else len(rates_T) // length
    t = min(recipe.warmup // 2, units - 1)
    if schedule.unit == "epoch":
        where = f"in epoch {t + 1}"
        rate = float(rates_T[t * length])
    else:
        where = f"for update {t} (counted from 0)"
        rate = float(rates_T[t])
    choices = sorted(_distinct(rate, _plausible(recipe, rate, t)), key=float)
    start = f"The peak is {number(schedule.peak)}, {_warmup_words(recipe)}."
    return Question(
        f"{start} What is the learning rate {where}?",
        tuple(choices),
        choices.index(number(rate)),
        f"{_why_this_rate(recipe, rate, t)}; this is what the run recorded.",
    )


def _warmup_words(recipe: Recipe) -> str:
    schedule = recipe.schedule
    if not recipe.warmup:
        return "without warmup"
    span = f"W = {recipe.warmup} ({schedule.unit}s)"
    if _is_straight(recipe):
        return f"reached by the ramp {schedule.ramp} with {span}"
    return f"and the warmup is {_shape(recipe)} with {span}"


def _why_this_rate(recipe: Recipe, rate: float, t: int) -> str:
    schedule = recipe.schedule
    warmup = recipe.warmup
    peak = number(schedule.peak)
    if warmup and not (_is_straight(recipe) and schedule.warmup_of != "schedule"):
        return f"W = {warmup}, and t = {t} counts from 0: the rate there is {number(rate)}"
    if schedule.first != 1:
        return f"It begins at {schedule.first:g} of its peak, {number(rate)}"
    if warmup:
        formula = schedule.ramp.replace("t", str(t)).replace("W", str(warmup))
        return f"t = {t} and W = {warmup}, so it is {peak} x {formula} = {number(rate)}"
    return f"The recipe has no warmup: it starts at its peak of {peak}"


def _shape(recipe: Recipe) -> str:
    schedule = recipe.schedule
    return f"untuned {schedule.warmup_form}" if schedule.untuned else str(schedule.warmup_form)


def _is_straight(recipe: Recipe) -> bool:
    """Whether the warmup is the plain ramp from 0 to the peak."""
    schedule = recipe.schedule
    has_extras = schedule.warmup_top is not None or schedule.least_rate is not None
    starts_at_zero = not schedule.warmup_start and schedule.first == 1
    return _shape(recipe) == "linear" and starts_at_zero and not has_extras


def _plausible(recipe: Recipe, rate: float, t: int) -> Iterable[float]:
    """Wrong answers: first those that come from a slip (a neighbour on the ramp, no ramp, another
    ramp), then any others.
    """
    peak = recipe.schedule.peak
    span = recipe.warmup
    if span:
        yield from (peak * share / span for share in (t, t + 1, t + 2))
        yield peak
        yield peak * (t + 1) / (span + 1)
    yield from (peak / 2, peak / 5, 0.0, peak * 2, rate * 3, peak / 10, peak * 3, peak * 5)


def _distinct(rate: float, candidates: Iterable[float]) -> list[str]:
    """The right rate and wrong ones that can be told from it, as text."""
    choices = [number(rate)]
    for candidate in candidates:
        text = number(candidate)
        if text not in choices and abs(candidate - rate) > 0.02 * abs(rate):
            choices.append(text)
        if len(choices) == CHOICES:
            break
    return choices


def _without_warmup(
    recipe: Recipe, with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]
) -> Question:
    warm, jax_warm = pair(with_warmup, "held_out_loss", -1)
    cold, jax_cold = pair(without, "held_out_loss", -1)
    text = "What happens to the final held-out loss when this recipe is trained without its warmup?"
    if not recipe.warmup:
        text = (
            "The recipe has no warmup. How does its final held-out loss compare with that of a "
            "run with one?"
        )
    numbers = f"{number(cold)} without warmup, {number(warm)} with it"
    if (number(warm), number(cold)) != (number(jax_warm), number(jax_cold)):
        numbers += f" (jax: {number(jax_cold)} and {number(jax_warm)})"
    if not math.isfinite(cold):
        right = 3
        with_it = "stays finite" if math.isfinite(warm) else "is not finite either"
        numbers += f"; with warmup it {with_it}"
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
