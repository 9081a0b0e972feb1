"""Learning-rate curves of recipes and presets, their differences, and the rates as applied."""

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
    """The learning rate of every update of a run.

    `rates_T` is the float64 closed form, and `note` what one must know beside it.
    """

    name: str
    recipe: Recipe
    updates_per_epoch: int
    rates_T: NDArray[np.float64]
    note: str = ""

    @staticmethod
    def of(name: str, recipe: Recipe, updates_per_epoch: int) -> "Curve":
        """The curve of a recipe.

        Raises:
            InputError: as in `learning_rates`.
        """
        return Curve(name, recipe, updates_per_epoch, learning_rates(recipe, updates_per_epoch))

    @property
    def rounded_T(self) -> NDArray[np.float32]:
        """The rates as a float32 training uses them."""
        return self.rates_T.astype(np.float32)

    @property
    def warmup(self) -> int:
        """W in updates."""
        if self.recipe.schedule.unit == "epoch":
            return self.recipe.warmup * self.updates_per_epoch
        return self.recipe.warmup


@dataclass(frozen=True)
class Gap:
    """The distance between two float32 curves."""

    same: int
    """The number of updates with the same rate."""
    first: int | None
    """The first update at which the rates differ; None where the curves are the same."""
    largest: int | None
    """The update at which they are furthest apart; None where the curves are the same."""


def gap(a: Curve, b: Curve) -> Gap:
    """The distance between two curves of one length, in float32."""
    differs_T = a.rounded_T != b.rounded_T
    if not differs_T.any():
        return Gap(len(differs_T), None, None)
    difference_T = np.abs(a.rates_T - b.rates_T)
    # the first update among those that only rounding tells from the largest difference
    is_largest_T = difference_T >= difference_T.max() * (1 - 1e-12)
    return Gap(
        same=int((~differs_T).sum()),
        first=int(differs_T.argmax()),
        largest=int(is_largest_T.argmax()),
    )


def preset_curve(
    written: str, *, peak: float | None, warmup: int | None, updates: int, length: int | None
) -> Curve:
    """The curve of "NAME" or "NAME,KNOB=VALUE,...", counted in updates.

    Args:
        written: the preset, with knobs of its own.
        peak: the value of the knob `peak`, if the preset leaves it free; None: its default.
        warmup: the value of the knob `warmup`; likewise.
        updates: the updates of the run.
        length: the value of the knob `length`; likewise.

    Raises:
        InputError: no such preset, a knob that it lacks, a wrong value, or a warmup longer than the
            run.
    """
    name, *knobs = (part.strip() for part in _split(written))
    preset = PRESETS["schedule"].get(name)
    common: dict[str, Any] = {"peak": peak, "warmup": warmup, "length": length, "unit": "update"}
    free = preset.free if preset else {}
    values: dict[str, Any] = {"preset": name}
    values |= {knob: value for knob, value in common.items() if value is not None and knob in free}
    for item in knobs:
        knob, equals, text = item.partition("=")
        if not equals:
            raise InputError(f"--preset {written}: {item!r} must be knob=value")
        values[knob.strip()] = parse_value(text)
    schedule = expand("schedule", values)
    schedule.setdefault("unit", "update")
    content = {
        "schedule": schedule,
        "optimizer": {"name": "adamw"},  # some presets derive their warmup from its beta2
        "training": {"epochs": updates},
    }
    try:
        curve = Curve.of(written, Recipe.from_dict(content), 1)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return replace(curve, note=PRESETS["schedule"][name].note)


def _split(written: str) -> list[str]:
    """The parts of a text between commas outside lists: "a,b=[1,2]" is "a" and "b=[1,2]"."""
    parts = [""]
    depth = 0
    for character in written:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def knobs_of(curve: Curve) -> dict[str, Any]:
    """The schedule's name and knobs, with W and T as numbers."""
    schedule = curve.recipe.schedule
    knobs = {"name": schedule.name, "peak": schedule.peak, "unit": schedule.unit}
    knobs |= {knob: getattr(schedule, knob) for knob in schedule.knobs()}
    for knob in schedule.options():
        value = getattr(schedule, knob)
        if value is not None and knob != "edges":
            knobs[knob] = value
    if knobs.get("length") == 0:
        run = len(curve.rates_T)
        knobs["length"] = run // curve.updates_per_epoch if schedule.unit == "epoch" else run
    return knobs | {"warmup": curve.recipe.warmup}


def marked_updates(curves: Sequence[Curve]) -> dict[int, str]:
    """Update -> its label, for the updates that deserve a row in a table."""
    T = len(curves[0].rates_T)
    marks: dict[int, list[str]] = {}

    def mark(update: int, label: str) -> None:
        if 0 <= update < T and label not in marks.setdefault(update, []):
            marks[update].append(label)

    mark(0, "first")
    for W in sorted({curve.warmup for curve in curves if curve.warmup}):
        mark(W - 1, "W-1")
        mark(W, "W")
        mark(W + 1, "W+1")
    for quarter in range(1, 4):
        mark(quarter * T // 4, "")
    for end in sorted({curve.recipe.schedule.length or T for curve in curves}):
        mark(end - 1, "T-1")
        mark(end, "T")
        mark(end + 1, "T+1")
    mark(T - 1, "last")
    for other in curves[1:]:
        distance = gap(curves[0], other)
        if distance.first is not None and distance.largest is not None:
            mark(distance.first, "first apart")
            mark(distance.largest, "furthest apart")
    labels = {update: ", ".join(filter(None, marks[update])) for update in marks}
    return dict(sorted(labels.items()))


def applied_rates(curves: Sequence[Curve]) -> dict[str, NDArray[np.float32]]:
    """The rates that each twin, in a process of its own, applies to a parameter in every update.

    Returns:
        backend -> float32, shape (curves, T).

    Raises:
        InputError: a framework that is not installed, or a process that died.
    """
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables.npy"
        np.save(tables, np.stack([curve.rounded_T for curve in curves]))
        outs = {backend: Path(folder) / f"{backend}.npy" for backend in BACKENDS}
        processes = {backend: _start_rates(backend, tables, out) for backend, out in outs.items()}
        errors = {backend: process.communicate()[1] for backend, process in processes.items()}
        for backend, process in processes.items():
            if process.returncode != 0:
                lines = errors[backend].strip().splitlines()
                reason = lines[-1].removeprefix("lockstep: ") if lines else ""
                raise InputError(
                    reason or f"the {backend} process ended with status {process.returncode}"
                )
            rates[backend] = np.load(outs[backend])
    return rates


def _start_rates(backend: str, tables: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lockstep", "rates", backend, str(tables), str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
