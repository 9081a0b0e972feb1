"""The learning rate's alternatives: the whole series against the schedule's closed form, changed in
known ways.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.causes.alternatives import Alternative, Cause
from lockstep.diagnose.causes.knobs import changed, created, fitted_knobs, other_choices
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.causes.side import Side, rows
from lockstep.diagnose.causes.tensors import Tensors, residual
from lockstep.errors import InputError
from lockstep.recipe import Recipe, Schedule
from lockstep.schedules.rate_tables import rate_tables

__all__ = ["ROUNDING", "alternatives", "null", "recorded_by", "rounded"]

ROUNDING = {"float64": 1e-9, "float32": 2e-6}
"""Relative size of what a schedule computed in float32 may be off by, a few units of the last
place. A smaller difference does not make a schedule of another meaning."""


def recorded_by(side: Side) -> Tensors:
    """The rates that were reported."""
    values = side.trace.arrays.get("updates/lr")
    return {} if values is None else {"lr/all": rows(values)}


def null(side: Side) -> Tensors | None:
    """The rates as the recipe has them; None where it declares no schedule."""
    table_T = _table(side, side.recipe)
    return None if table_T is None else _cut(side, table_T)


def alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    recipe = side.recipe
    table_T = _table(side, recipe)
    if table_T is None or recipe is None:
        return
    yield from _other_places(side, recipe, table_T)
    for name in FORMATS:
        text = f"{{side}}'s learning rate is rounded to {name}"
        low = _cut(side, rounded_to(name, table_T))
        yield Alternative("lr-rounded", text, "schedule-in-float32-under-jit", low)
    yield from _other_schedules(side, recipe)
    length = side.trace.header.get("updates_per_epoch", 1)
    for key, word, offset in (("lr-late", "late", -length), ("lr-early", "early", length)):
        text = f"{{side}}'s learning rate comes one epoch {word}"
        yield Alternative(key, text, "", _cut(side, _shifted(table_T, offset)))
    knobs = _knobs(recipe.schedule)
    yield from fitted_knobs("schedule", recipe.schedule, knobs, _maker(side, recipe), recorded)


def rounded(side: Side, recorded: Tensors, right: Tensors) -> Cause | None:
    """The cause of rates that are the scheduled ones but for their last bits; None for the same
    bits.
    """
    gap = residual(right, recorded)
    if not gap:
        return None
    text = (
        f"{side.name}'s learning rate is the scheduled one up to rounding: not computed in float64 "
        "and rounded once"
    )
    return Cause("lr-rounded", text, "schedule-in-float32-under-jit", side.name, gap, gap)


def _other_places(
    side: Side, recipe: Recipe, table_T: NDArray[np.float64]
) -> Iterator[Alternative]:
    """The scheduled rates at other updates."""
    late = _cut(side, _shifted(table_T, -1))
    text = "{side}'s learning rate comes one update late"
    yield Alternative("lr-late", text, "", late)
    early = _cut(side, _shifted(table_T, 1))
    text = "{side}'s learning rate comes one update early"
    yield Alternative("lr-early", text, "last-lr-is-the-next-lr", early)
    places = np.arange(len(table_T)) * recipe.gradient.accumulate
    by_batch = _cut(side, table_T[np.minimum(places, len(table_T) - 1)])
    text = "{side}'s schedule counts every batch; the recipe's counts every update"
    yield Alternative("lr-early", text, "", by_batch)
    begun_again = _cut(side, _shifted(table_T, -side.trace.first_update))
    text = "{side}'s schedule begins again where the run went on"
    yield Alternative("state-forgotten", text, "scheduler-state-forgotten", begun_again)


def _shifted(table_T: NDArray[np.float64], offset: int) -> NDArray[np.float64]:
    """At every update the rate of so many updates later; beyond the ends the rates there."""
    places = np.arange(len(table_T)) + offset
    return table_T[np.clip(places, 0, len(table_T) - 1)]


def _table(side: Side, recipe: Recipe | None) -> NDArray[np.float64] | None:
    """The rate of every update (T,); None where the recipe declares none, or one that does not fit
    the run.
    """
    if recipe is None or not side.declares("schedule"):
        return None
    if "recipe" in side.trace.header:
        return _rates(recipe, side.trace.header["updates_per_epoch"])
    updates = _updates(side)
    if not updates or recipe.schedule.unit != "update":
        return None
    return _rates(replace(recipe, training=replace(recipe.training, epochs=updates)), 1)


def _rates(recipe: Recipe, updates_per_epoch: int) -> NDArray[np.float64] | None:
    try:
        return rate_tables(recipe, updates_per_epoch)[0].astype(np.float64)
    except InputError:
        return None


def _updates(side: Side) -> int:
    """The number of rates that were recorded."""
    rates = recorded_by(side).get("lr/all")
    return 0 if rates is None else rates.shape[-1]


def _cut(side: Side, table_T: NDArray[np.float64]) -> Tensors:
    """The rates of the updates that the trace holds."""
    return {"lr/all": rows(table_T[side.trace.first_update :][: _updates(side)])}


def _maker(side: Side, recipe: Recipe) -> Callable[[Schedule], Tensors | None]:
    """What gives the rates of another schedule; None for one that does not fit the run."""

    def make(schedule: Schedule) -> Tensors | None:
        other = changed(recipe, schedule=schedule)
        table_T = None if other is None else _table(side, other)
        return None if table_T is None else _cut(side, table_T)

    return make


def _knobs(schedule: Schedule) -> list[str]:
    # another library's way at the edges changes no rate elsewhere, and explains none
    return [
        field.name
        for field in fields(schedule)
        if field.name not in ("name", "edges") and getattr(schedule, field.name) is not None
    ]


def _other_schedules(side: Side, recipe: Recipe) -> Iterator[Alternative]:
    """Other values of the schedule's knobs, then other schedules."""
    mine = recipe.schedule
    make = _maker(side, recipe)
    knobs = _knobs(mine)
    yield from other_choices("schedule", mine, knobs, make)
    options: list[tuple[str, Schedule | None]] = []
    if mine.warmup:
        options.append(("no warmup", changed(mine, warmup=0)))
    for knob in knobs:
        count = getattr(mine, knob)
        if type(count) is int:
            for other in (count - 1, count + 1):
                text = f"schedule.{knob} = {other}; the recipe says {count}"
                options.append((text, changed(mine, **{knob: other})))
    values = asdict(mine)
    for name, kind in Schedule.variants.items():
        if name != mine.name:
            shared = {knob: values[knob] for knob in kind.knobs() if values.get(knob) is not None}
            schedule = created(Schedule, name=name, peak=mine.peak, unit=mine.unit, **shared)
            options.append((f"the schedule {name}; the recipe says {mine.name}", schedule))
    for text, schedule in options:
        tensors = None if schedule is None else make(schedule)
        if tensors is not None:
            yield Alternative("other-schedule", f"{{side}} has {text}", "", tensors)
