"""The learning rate's alternatives: the whole series against the schedule's closed form, changed in
known ways.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.causes.judge import Alternative, Cause, Tensors, residual
from lockstep.diagnose.causes.knobs import changed, fitted_knobs, made, other_choices
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.causes.side import Side, rows
from lockstep.errors import InputError
from lockstep.recipe import Recipe, Schedule
from lockstep.schedules.rate_tables import rate_tables

__all__ = ["ROUNDING", "alternatives", "null", "recorded", "rounded"]

ROUNDING = {"float64": 1e-9, "float32": 2e-6}
"""Relative size of what a schedule computed in float32 may be off by, a few units of the last
place; less than that
is not a schedule of another meaning."""


def recorded(side: Side) -> Tensors:
    """The rates that were reported."""
    values = side.trace.arrays.get("updates/lr")
    return {} if values is None else {"lr/all": rows(values)}


def null(side: Side) -> Tensors | None:
    """The rates as the recipe has them; None where it declares no schedule."""
    table_T = _table(side, side.recipe)
    return None if table_T is None else _cut(side, table_T)


def alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    table_T, recipe = _table(side, side.recipe), side.recipe
    if table_T is None or recipe is None:
        return
    places, length = np.arange(len(table_T)), side.trace.header.get("updates_per_epoch", 1)
    last, begun = len(table_T) - 1, side.trace.first_update
    accumulate = recipe.gradient.accumulate
    shifts = [
        ("lr-late", "{side}'s learning rate comes one update late", "", places - 1),
        (
            "lr-early",
            "{side}'s learning rate comes one update early",
            "last-lr-is-the-next-lr",
            places + 1,
        ),
        (
            "lr-early",
            "{side}'s schedule counts every batch; the recipe every update",
            "",
            places * accumulate,
        ),
        (
            "state-forgotten",
            "{side}'s schedule begins again where the run went on",
            "scheduler-state-forgotten",
            places - begun,
        ),
    ]
    for key, text, page, moved in shifts:
        yield Alternative(key, text, page, _cut(side, table_T[np.clip(moved, 0, last)]))
    for name in FORMATS:
        text = f"{{side}}'s learning rate is rounded to {name}"
        yield Alternative(
            "lr-rounded",
            text,
            "schedule-in-float32-under-jit",
            _cut(side, rounded_to(name, table_T)),
        )
    yield from _schedules(side, recipe)
    for key, word, offset in (("lr-late", "late", -length), ("lr-early", "early", length)):
        text = f"{{side}}'s learning rate comes one epoch {word}"
        yield Alternative(key, text, "", _cut(side, table_T[np.clip(places + offset, 0, last)]))
    make, knobs = _maker(side, recipe), _knobs(recipe.schedule)
    yield from fitted_knobs("schedule", recipe.schedule, knobs, make, found)


def rounded(side: Side, found: Tensors, wanted: Tensors) -> Cause | None:
    """Rates that are the scheduled ones but for their last bits; None for the same bits."""
    gap = residual(wanted, found)
    if not gap:
        return None
    text = (
        f"{side.name}'s learning rate is the scheduled one up to rounding: not computed in "
        "float64 and rounded once"
    )
    return Cause("lr-rounded", text, "schedule-in-float32-under-jit", side.name, gap, gap)


def _table(side: Side, recipe: Recipe | None) -> NDArray[np.float64] | None:
    if recipe is None or not side.declares("schedule"):
        return None
    if "recipe" in side.trace.header:
        return _rates(recipe, side.trace.header["updates_per_epoch"])
    updates = recorded(side).get("lr/all", np.zeros((1, 0))).shape[-1]
    if not updates or recipe.schedule.unit != "update":
        return None
    return _rates(replace(recipe, training=replace(recipe.training, epochs=updates)), 1)


def _rates(recipe: Recipe, updates_per_epoch: int) -> NDArray[np.float64] | None:
    try:
        return rate_tables(recipe, updates_per_epoch)[0].astype(np.float64)
    except InputError:
        return None


def _cut(side: Side, table_T: NDArray[np.float64]) -> Tensors:
    """The updates that the trace holds."""
    length = recorded(side).get("lr/all", np.zeros((1, 0))).shape[-1]
    return {"lr/all": rows(table_T[side.trace.first_update :][:length])}


def _maker(side: Side, recipe: Recipe) -> Callable[[Schedule | None], Tensors | None]:
    """What gives the rates of another schedule; None for one that does not fit the run."""

    def make(schedule: Schedule | None) -> Tensors | None:
        other = None if schedule is None else changed(recipe, schedule=schedule)
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


def _schedules(side: Side, recipe: Recipe) -> Iterator[Alternative]:
    """Other values of the schedule's knobs, then other schedules."""
    mine, make, knobs = recipe.schedule, _maker(side, recipe), _knobs(recipe.schedule)
    yield from other_choices("schedule", mine, knobs, make)
    counts = {knob: getattr(mine, knob) for knob in knobs if type(getattr(mine, knob)) is int}
    options = [
        (f"schedule.{knob} = {n + step}; the recipe says {n}", changed(mine, **{knob: n + step}))
        for knob, n in counts.items()
        for step in (-1, 1)
    ]
    if mine.warmup:
        options.insert(0, ("no warmup", changed(mine, warmup=0)))
    values = asdict(mine)
    for name, kind in Schedule.variants.items():
        kept = {knob: values[knob] for knob in kind.knobs() if values.get(knob) is not None}
        if name != mine.name:
            schedule = made(Schedule, name=name, peak=mine.peak, unit=mine.unit, **kept)
            options.append((f"the schedule {name}; the recipe says {mine.name}", schedule))
    for told, schedule in options:
        tensors = make(schedule)
        if tensors is not None:
            yield Alternative("other-schedule", f"{{side}} has {told}", "", tensors)
