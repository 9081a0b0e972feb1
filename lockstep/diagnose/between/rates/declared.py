"""The rates that a loop's declared schedule has."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lockstep.diagnose.between.pair import LoopSide
from lockstep.diagnose.between.rates.series import RateSeries
from lockstep.diagnose.causes.side import declared
from lockstep.errors import InputError
from lockstep.recipe import Schedule
from lockstep.schedules.formulas import learning_rates

__all__ = ["Declaration", "declaration_of", "differing_knobs"]

FOLLOWED = 1e-9
"""Share of the largest rate that a side in float64 that follows its declared schedule may be off
by."""
FOLLOWED_IN_FLOAT32 = 2e-6
"""The same in float32, where a schedule may be computed in several steps."""
KNOBS = {
    "warmup": "warmup",
    "length": "length",
    "peak": "peak",
    "floor": "floor",
    "ramp": "ramp",
    "warmup_start": "warmup's start",
    "decay_start": "the decay's start",
    "decay_end": "the decay's end",
    "after_end": "after the end",
}
"""Knobs that have words of their own; the others have their names."""


@dataclass(frozen=True)
class Declaration:
    """A side's declared schedule.

    Attributes:
        schedule: as it was declared.
        length: its end T, in updates; that of the recording where it declares none.
        series: the rates that it has.
        is_followed: whether the side's rates are these.
        is_whole: whether peak, warmup and length were declared, and no default was taken for them.
    """

    schedule: Schedule
    length: int
    series: RateSeries
    is_followed: bool
    is_whole: bool


def declaration_of(side: LoopSide, recorded: RateSeries) -> Declaration | None:
    """The declared schedule of a side; None where it declares none, or one that has no rates.

    Args:
        side: one of two loops.
        recorded: its recorded rates.
    """
    recipe, sections = declared(side.trace)
    if recipe is None or "schedule" not in sections or "recipe" in side.trace.header:
        return None
    if recipe.schedule.unit != "update":
        return None
    updates = recorded.first + len(recorded.rates_T)
    recipe = replace(recipe, training=replace(recipe.training, epochs=updates))
    try:
        table_T = learning_rates(recipe, 1)
    except InputError:
        return None
    rates_T = table_T[recorded.first :]
    series = RateSeries(
        "the declared one",
        "the declared schedule",
        "declared",
        rates_T,
        recorded.unit,
        recorded.first,
    )
    share = FOLLOWED_IN_FLOAT32 if series.is_float32 else FOLLOWED
    gap = float(np.abs(rates_T - recorded.rates_T).max())
    is_followed = gap <= share * float(np.abs(rates_T).max())
    schedule = recipe.schedule
    stated = side.settings["schedule"]
    is_whole = schedule.length != 0 and {"peak", "warmup"} <= stated.keys()
    length = schedule.length or updates
    return Declaration(schedule, length, series, is_followed, is_whole)


def differing_knobs(a: Declaration, b: Declaration) -> list[str]:
    """What two declared schedules differ in: "warmup 5 in a, 0 in b"."""
    knobs_a, knobs_b = _knobs(a), _knobs(b)
    parts = []
    for knob in dict.fromkeys([*knobs_a, *knobs_b]):
        mine, other = knobs_a.get(knob), knobs_b.get(knob)
        if (mine != other and knob != "ramp") or (
            knob == "ramp" and _both_climb(a, b, mine, other)
        ):
            parts.append(f"{KNOBS.get(knob, knob)} {_said(mine)} in a, {_said(other)} in b")
    return parts


def _both_climb(a: Declaration, b: Declaration, mine: Any, other: Any) -> bool:
    return bool(mine != other and a.schedule.warmup and b.schedule.warmup)


def _knobs(declaration: Declaration) -> Mapping[str, Any]:
    """Knob -> its value, the warmup and the length first."""
    schedule = declaration.schedule
    names = [*schedule.knobs(), *schedule.options()]
    ordered = sorted(names, key=lambda name: name != "warmup")
    knobs: dict[str, Any] = {"name": schedule.name, "peak": schedule.peak}
    knobs |= {name: getattr(schedule, name) for name in ordered}
    if knobs.get("length") == 0:
        knobs["length"] = declaration.length
    knobs.pop("edges", None)
    return {name: value for name, value in knobs.items() if value is not None}


def _said(value: Any) -> str:
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
