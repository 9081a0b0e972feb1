"""Learning-rate curves to look at: of a recipe and of presets, what sets them apart, and what the
twins apply.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.backends import BACKENDS
from lockstep.errors import InputError
from lockstep.processes import child_environment
from lockstep.recipe import Recipe, parse_value
from lockstep.recipe.presets import PRESETS, expand
from lockstep.schedules.formulas import learning_rates

__all__ = ["Curve", "Gap", "applied_rates", "gap", "knobs_of", "marked_updates", "preset_curve"]


@dataclass(frozen=True)
class Curve:
    """The learning rate of every update of a run: `rates_T` is the float64 closed form; `note` is
    what one must know beside it."""

    name: str
    recipe: Recipe
    updates_per_epoch: int
    rates_T: NDArray[np.float64]
    note: str = ""

    @staticmethod
    def of(name: str, recipe: Recipe, updates_per_epoch: int) -> "Curve":
        """The curve of a recipe; raises InputError as `learning_rates` does."""
        return Curve(name, recipe, updates_per_epoch, learning_rates(recipe, updates_per_epoch))

    @property
    def rounded_T(self) -> NDArray[np.float32]:
        """The rates as a float32 training uses them."""
        return self.rates_T.astype(np.float32)

    @property
    def warmup(self) -> int:
        """W in updates."""
        return self.recipe.warmup * (
            self.updates_per_epoch if self.recipe.schedule.unit == "epoch" else 1
        )


@dataclass(frozen=True)
class Gap:
    """How far two float32 curves are apart; the updates are None where they are the same."""

    same: int
    first: int | None
    largest: int | None


def gap(a: Curve, b: Curve) -> Gap:
    """At how many updates two curves of one length have the same float32 rate, where they part and
    where they are furthest apart."""
    apart = a.rounded_T != b.rounded_T
    if not apart.any():
        return Gap(len(apart), None, None)
    difference = np.abs(a.rates_T - b.rates_T)
    # the first of those that rounding alone tells apart
    return Gap(
        int((~apart).sum()),
        int(apart.argmax()),
        int((difference >= difference.max() * (1 - 1e-12)).argmax()),
    )


def preset_curve(
    written: str, *, peak: float | None, warmup: int | None, updates: int, length: int | None
) -> Curve:
    """The curve of "NAME" or "NAME,KNOB=VALUE,...", counted in updates.

    Args:
        written: the preset, with knobs of its own.
        peak, warmup, length: for the knobs of that name where the preset leaves them free; None
        leaves the default. updates: length of the run.

    Raises:
        InputError: no such preset, a knob that it lacks, a wrong value, or a warmup longer than the
        run.
    """
    name, *knobs = (part.strip() for part in _split(written))
    preset = PRESETS["schedule"].get(name)
    common: dict[str, Any] = {"peak": peak, "warmup": warmup, "length": length, "unit": "update"}
    taken = {
        knob: common[knob]
        for knob in common
        if preset and knob in preset.free and common[knob] is not None
    }
    values = {"preset": name} | taken
    for item in knobs:
        knob, equals, text = item.partition("=")
        if not equals:
            raise InputError(f"--preset {written}: {item!r} must be knob=value")
        values[knob.strip()] = parse_value(text)
    # AdamW for the presets that take their warmup from its beta2
    content = {
        "schedule": expand("schedule", values),
        "optimizer": {"name": "adamw"},
        "training": {"epochs": updates},
    }
    content["schedule"].setdefault("unit", "update")
    try:
        curve = Curve.of(written, Recipe.from_dict(content), 1)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return replace(curve, note=PRESETS["schedule"][name].note)


def _split(written: str) -> list[str]:
    """At commas, but not at those of a list: "a,b=[1,2]" is "a" and "b=[1,2]"."""
    parts, depth = [""], 0
    for character in written:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def knobs_of(curve: Curve) -> dict[str, Any]:
    """The schedule's name and knobs; W and T are written out."""
    schedule = curve.recipe.schedule
    knobs = {"name": schedule.name, "peak": schedule.peak, "unit": schedule.unit}
    knobs |= {knob: getattr(schedule, knob) for knob in schedule.knobs()}
    options = {knob: getattr(schedule, knob) for knob in schedule.options()}
    knobs |= {
        knob: value for knob, value in options.items() if value is not None and knob != "edges"
    }
    if knobs.get("length") == 0:
        run = len(curve.rates_T)
        knobs["length"] = run // curve.updates_per_epoch if schedule.unit == "epoch" else run
    return knobs | {"warmup": curve.recipe.warmup}


def marked_updates(curves: Sequence[Curve]) -> dict[int, str]:
    """The updates worth a row in a table, with what they are."""
    T = len(curves[0].rates_T)
    marks: dict[int, list[str]] = {}

    def mark(update: int, what: str) -> None:
        if 0 <= update < T and what not in marks.setdefault(update, []):
            marks[update].append(what)

    mark(0, "first")
    for W in sorted({curve.warmup for curve in curves if curve.warmup}):
        for update, what in ((W - 1, "W-1"), (W, "W"), (W + 1, "W+1")):
            mark(update, what)
    for quarter in range(1, 4):
        mark(quarter * T // 4, "")
    for end in sorted({curve.recipe.schedule.length or T for curve in curves}):
        for update, what in ((end - 1, "T-1"), (end, "T"), (end + 1, "T+1")):
            mark(update, what)
    mark(T - 1, "last")
    for other in curves[1:]:
        found = gap(curves[0], other)
        if found.first is not None and found.largest is not None:
            mark(found.first, "first apart")
            mark(found.largest, "furthest apart")
    return {update: ", ".join(filter(None, marks[update])) for update in sorted(marks)}


def applied_rates(curves: Sequence[Curve]) -> dict[str, NDArray[np.float32]]:
    """What each twin, in a process of its own, takes from a parameter in every update.

    Returns:
        backend -> float32, shape (curves, T).

    Raises:
        InputError: a framework that is not installed, or a process that died.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables.npy"
        np.save(tables, np.stack([curve.rounded_T for curve in curves]))
        outs = {backend: Path(folder) / f"{backend}.npy" for backend in BACKENDS}
        started = {
            backend: subprocess.Popen(
                [sys.executable, "-m", "lockstep", "rates", backend, str(tables), str(out)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=child_environment(),
            )
            for backend, out in outs.items()
        }
        said = {backend: process.communicate()[1] for backend, process in started.items()}
        for backend, process in started.items():
            if process.returncode != 0:
                last = "".join(said[backend].strip().splitlines()[-1:]).removeprefix("lockstep: ")
                raise InputError(
                    last or f"the {backend} process ended with status {process.returncode}"
                )
            found[backend] = np.load(outs[backend])
    return found
