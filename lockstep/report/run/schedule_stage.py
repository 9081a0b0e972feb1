"""The stage of the schedule: its formula, and the learning rates of the run."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.numbers import number
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.report.run.epochs import epoch_rates, rates_by_epoch
from lockstep.report.run.stage import Fact, Stage, cut
from lockstep.report.run.targets import LISTED
from lockstep.schedules.formulas import learning_rates

__all__ = ["describe_schedule", "warmup_span"]

RISES = {
    "linear": "in a straight line",
    "cosine": "along half a cosine",
    "exponential": "as 1 - exp(-(t+1)/W)",
    "1-sqrt": "ever faster, as 1 - sqrt(1 - r),",
    "log": "ever slower, with the logarithm of the time,",
    "constant": "in one step",
}
"""Form of a warmup -> how it rises."""


def describe_schedule(
    recipe: Recipe, traces: Mapping[str, Trace], contrast: Mapping[str, Trace]
) -> Stage:
    """The schedule of the recipe; where it has no warmup, that of the contrast too."""
    schedule = recipe.schedule
    peak = number(schedule.peak)
    rates = epoch_rates(traces["torch"])
    facts = []
    if recipe.warmup:
        shape = RISES[schedule.warmup_form]
        to = "towards" if "exponential" in schedule.warmup_shape else "to"
        what = f"The learning rate rises {shape} {to} {peak} and then {schedule.spec.title}."
        facts.append(Fact("formula", _formula(recipe)))
        facts.append(Fact("before training", "learning rate 0: nothing has been updated"))
    else:
        what = schedule.spec.alone.format(peak=peak, title=schedule.spec.title)
    varies = bool((np.ptp(rates_by_epoch(traces["torch"]), axis=1) > 0).any())
    label = "at each epoch's end" if varies else "in each epoch"
    facts.append(Fact(label, _runs(rates, "epoch", 1)))
    values = "the same values" if _same_rates(traces) else "the values differ"
    facts.append(Fact("recorded by both", values))
    facts += _other_unit(recipe, traces["torch"])
    if not recipe.warmup:
        other = contrast["torch"]
        facts.append(Fact("the contrast has", _formula(other.recipe)))
        facts.append(Fact("its learning rate", _runs(epoch_rates(other), "epoch", 1)))
    return Stage("Warmup schedule", what, tuple(facts))


def _formula(recipe: Recipe) -> str:
    """The formula of the warmup: "0.01 x (t+1)/W with W = 5 epochs and t = the epoch, ..."."""
    schedule = recipe.schedule
    ramp: str = schedule.ramp if schedule.warmup_top is None else "t/(W-1)"
    time, _, length = ramp.rpartition("/")
    shapes = {
        "linear": ramp,
        "cosine": f"(1 - cos(pi {ramp})) / 2",
        "exponential": "(1 - exp(-(t+1)/W))",
        "1-sqrt": f"(1 - sqrt(1 - {ramp}))",
        "log": f"log({time.strip('()')}) / log({length.strip('()')})",
        "constant": "0",
    }
    ramp = shapes[schedule.warmup_form]
    if schedule.warmup_start:
        ramp = f"({schedule.warmup_start:g} + {1 - schedule.warmup_start:g} {ramp})"
    top = schedule.peak * schedule.first
    if schedule.warmup_curve == "constant":
        return (
            f"{number(top * schedule.warmup_start)} until t = W = {warmup_span(recipe)}, "
            "counted from 0"
        )
    return (
        f"{number(top)} x {ramp} with W = {warmup_span(recipe)} and t = the {schedule.unit}, "
        "counted from 0"
    )


def warmup_span(recipe: Recipe) -> str:
    """The length of the warmup in words: "5 epochs", "1 update"."""
    return f"{recipe.warmup} {recipe.schedule.unit}{'' if recipe.warmup == 1 else 's'}"


def _other_unit(recipe: Recipe, trace: Trace) -> Iterator[Fact]:
    """The rates of the same warmup if it counts updates in place of epochs, or epochs in place of
    updates.
    """
    schedule = recipe.schedule
    if not recipe.warmup or schedule.length or schedule.spec.counts or schedule.untuned:
        return
    length = int(trace.header["updates_per_epoch"])
    if schedule.unit == "update":
        span = min(max(1, round(recipe.warmup / length)), recipe.training.epochs)
        other = recipe.with_values({"schedule.unit": "epoch", "schedule.warmup": span})
        rates = learning_rates(other, length)[length - 1 :: length]
        yield Fact("counted in epochs", f"W = {span}: {_runs(rates, 'epoch', 1)}")
        return
    span = recipe.warmup * length
    other = recipe.with_values({"schedule.unit": "update", "schedule.warmup": span})
    rates = learning_rates(other, length)
    marks = {0, 1, span // 4, span // 2, span - 1, span, len(rates) - 1}
    texts = [f"{number(rates[i])} (update {i})" for i in sorted(marks) if 0 <= i < len(rates)]
    yield Fact("counted in updates", f"W = {span}: {', '.join(texts)}")


def _same_rates(traces: Mapping[str, Trace]) -> bool:
    return bool(np.array_equal(traces["torch"].series("lr"), traces["jax"].series("lr")))


def _runs(rates: NDArray[Any], unit: str, first: int) -> str:
    """0.002 (epoch 1), 0.004 (2), ..., 0.01 (5 to 10)."""
    texts: list[str] = []
    begin = first
    for value, group in groupby(number(rate) for rate in rates):
        end = begin + len(list(group)) - 1
        where = f"{begin}" if end == begin else f"{begin} to {end}"
        texts.append(f"{value} ({where})" if texts else f"{value} ({unit} {where})")
        begin = end + 1
    return ", ".join(cut(texts, LISTED + 2))
