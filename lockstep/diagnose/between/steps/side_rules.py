"""The rules that a side may go by: as its settings say, or as its own steps do."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lockstep.diagnose.between.pair import LoopSide
from lockstep.diagnose.between.steps.step_guesses import guessed_optimizers
from lockstep.diagnose.between.steps.step_rules import StepInputs, StepRule, inputs_of, remake
from lockstep.diagnose.local.difference import likely
from lockstep.recipe import Optimizer

__all__ = ["rules_of"]

RATE_ERROR = 1e-5
"""Relative error of a rate that a step in float32 gives."""


def rules_of(side: LoopSide, update: int) -> Iterator[StepRule]:
    """The rules that a side may go by: as its settings say, then as its own steps do."""
    inputs = inputs_of(side, update)
    if inputs is None:
        return
    names = list(inputs.gradients)
    stated = _read(side, update, names) or _declared(side, update, names)
    if stated is not None:
        yield stated
    rate = _rate(side, update, 0)
    weights = frozenset(name for name in names if inputs.parameters[name].ndim > 1)
    for optimizers in guessed_optimizers(side.steps, update, names, weights):
        own = _rate_of_step(side, update, inputs, optimizers) if rate is None else rate
        if own is not None:
            yield StepRule(optimizers, dict.fromkeys(names, own), is_stated=False)


def _rate_of_step(
    side: LoopSide, update: int, inputs: StepInputs, optimizers: Mapping[str, Optimizer]
) -> float | None:
    """The learning rate by which an optimizer comes nearest to a step, where none was recorded."""
    remade = remake(StepRule(optimizers, dict.fromkeys(optimizers, 1.0)), inputs)
    changes = side.tensors("update", update)
    if remade is None or not changes.keys() >= remade.changes.keys():
        return None
    product = sum(float((changes[name] * way).sum()) for name, way in remade.changes.items())
    square = sum(float(np.square(way).sum()) for way in remade.changes.values())
    rate = product / square if square else math.nan
    return likely(rate, RATE_ERROR * abs(rate)) if math.isfinite(rate) and rate else None


def _rate(side: LoopSide, update: int, group: int) -> float | None:
    """The learning rate of a group; of the first where the group's own was not recorded."""
    rate = side.series(f"lr{group}" if group else "lr", update)
    if rate is None and group:
        rate = side.series("lr", update)
    if rate is None:
        settings = side.settings.get("optimizer")
        fixed = settings.get("lr") if isinstance(settings, Mapping) else None
        rate = float(fixed) if isinstance(fixed, int | float) else None
    return rate


def _read(side: LoopSide, update: int, names: list[str]) -> StepRule | None:
    """The rule by what was read off the loop's optimizers."""
    optimizers: dict[str, Optimizer] = {}
    rates: dict[str, float] = {}
    clip_norm = None
    is_of_torch = False
    number = 0
    for read in side.reading.get("optimizers") or ():
        is_of_torch |= str(read.get("class")).startswith("torch.")
        for group in read.get("groups") or ():
            rate = _rate(side, update, number)
            number += 1
            optimizer = _optimizer(str(read.get("name") or ""), group)
            if optimizer is None or rate is None:
                return None
            clip_norm = group.get("clip_norm", clip_norm)
            for name in group.get("parameters") or ():
                optimizers[name] = optimizer
                rates[name] = rate
    if not set(names) <= optimizers.keys():
        return None
    return StepRule(optimizers, rates, clip_norm, has_float32_product=is_of_torch)


def _declared(side: LoopSide, update: int, names: list[str]) -> StepRule | None:
    """The rule by what the loop declared."""
    settings = side.settings.get("optimizer")
    rate = _rate(side, update, 0)
    if not isinstance(settings, Mapping) or rate is None or not settings.get("name"):
        return None
    optimizer = _optimizer(str(settings["name"]), settings)
    if optimizer is None:
        return None
    optimizers: dict[str, Optimizer] = {}
    for name in names:
        is_weight = side.parameters(update)[name].ndim > 1
        is_bare = settings.get("decay_on") == "weights" and not is_weight and optimizer.decay_rate
        optimizers[name] = optimizer.with_knobs(weight_decay=0.0) if is_bare else optimizer
    return StepRule(optimizers, dict.fromkeys(names, rate))


def _optimizer(name: str, settings: Mapping[str, Any]) -> Optimizer | None:
    """The optimizer of a name with these knobs; None for none of the catalogue."""
    kind = Optimizer.variants.get(name)
    if kind is None:
        return None
    defaults = kind.knobs()
    knobs = {
        knob: float(value) if isinstance(defaults[knob], float) and type(value) is int else value
        for knob, value in settings.items()
        if knob in defaults
    }
    try:
        return kind(**knobs)  # type: ignore[arg-type] # knobs of the kind
    except ValueError:
        return None
