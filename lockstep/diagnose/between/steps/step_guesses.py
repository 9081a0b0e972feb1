"""Optimizers that a side may have, by the slots that it remembers and what its steps measure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from lockstep.diagnose.local.difference import likely
from lockstep.diagnose.local.least_squares import Estimate
from lockstep.diagnose.local.readings import Steps
from lockstep.diagnose.local.samples import ALIASES
from lockstep.diagnose.local.steps import StepsOfSide
from lockstep.recipe import Optimizer

__all__ = ["guessed_optimizers"]

NAMES = {
    "sgd": ("sgd",),
    "adam": ("adamw", "adam"),
    "amsgrad": ("adamw", "adam"),
    "nadam": ("nadamw", "nadam"),
}
"""Optimizer by its steps -> the names in the catalogue; of the others the same."""
KNOBS = {"beta1": "beta1", "beta2": "beta2", "momentum": "momentum", "decay": "decay"}
FLAGS = {"nesterov": "nesterov", "eps in the root": "eps_in_root"}
EPS = (1e-8, 1e-6, 1e-7, 1e-10, 1e-16, 1e-5, 1e-4, 1e-3)
EPS_ROOTS = (0.0, 1e-16)
DECAYS = (0.0, 0.01, 0.1, 1e-3, 1e-4, 0.05, 0.02, 0.2)
"""What people write, where the steps do not tell it."""
LESS_KNOWN = ("adabelief", "lamb", "adan")
"""Optimizers whose steps are measured as those of none, or of another one."""
SLOTS = {
    "adabelief": {"first", "second"},
    "lamb": {"first", "second"},
    "adan": {"first", "second", "previous"},
}
SHARE_OF = {
    "adabelief": {"first": "beta1", "second": "beta2"},
    "lamb": {"first": "beta1", "second": "beta2"},
    "adan": {"first": "beta1"},
}

Optimizers = dict[str, Optimizer]


def guessed_optimizers(
    steps_of_side: StepsOfSide, update: int, names: Sequence[str], weights: frozenset[str]
) -> Iterator[Optimizers]:
    """Each parameter's optimizer, the likeliest first; none where nothing is known.

    Args:
        steps_of_side: the updates of the side.
        update: counted from 0.
        names: of the parameters.
        weights: those with more than one axis.
    """
    steps = steps_of_side.at(update)
    if steps is not None and steps.rule != "normalised":
        yield from _measured(steps, names, steps_of_side.beta("momentum", update))
    samples = steps_of_side.samples(update)
    slots = {ALIASES.get(slot, slot) for slot in samples[0].moments} if samples else set()
    if slots == {"second"} and not update:
        yield from _adagrads(steps_of_side, names)
    for name in LESS_KNOWN:
        if slots >= SLOTS[name]:
            yield from _tried(name, steps_of_side, update, names, weights)


def _measured(
    steps: Steps, names: Sequence[str], momentum: Estimate | None
) -> Iterator[Optimizers]:
    numbers = {quantity: _plain(estimate) for quantity, estimate in steps.numbers.items()}
    shared: dict[str, Any] = {
        KNOBS[quantity]: value for quantity, value in numbers.items() if quantity in KNOBS
    }
    shared |= {
        FLAGS[quantity]: bool(numbers[quantity]) for quantity in FLAGS if quantity in numbers
    }
    if momentum is not None and steps.lengths:
        shared.setdefault("momentum", _plain(momentum))
    if steps.rule == "amsgrad":
        shared["amsgrad"] = "corrected" if numbers.get("amsgrad") else "raw"
    inner = {name: _plain(decay) for name, decay in steps.added.items()}
    outer = {name: _plain(decay) for name, decay in steps.decays.items()}
    known = [numbers["eps"]] if numbers.get("eps") else []
    for name in NAMES.get(steps.rule, (steps.rule,)):
        kind = Optimizer.variants.get(name)
        if kind is None:
            return
        decays = outer if kind.spec.decoupled else inner
        for eps in (*known, *EPS):
            for eps_root in EPS_ROOTS if name == "adabelief" else (0.0,):
                knobs = shared | {"eps": eps, "eps_root": eps_root}
                optimizers = _of_each(name, names, knobs, decays)
                if optimizers is not None:
                    yield optimizers
            if "eps" not in kind.knobs():
                break


def _adagrads(steps_of_side: StepsOfSide, names: Sequence[str]) -> Iterator[Optimizers]:
    """Adagrad, by what its sum of squares starts at."""
    starts = np.concatenate(
        [sample.moments["second"] - sample.gradient**2 for sample in steps_of_side.samples(0)]
    )
    start = float(np.median(starts))
    known = likely(start, 1e-6 * abs(start)) if start > 0 else 0.0
    for in_root in (True, False):
        for eps in EPS:
            knobs = {"initial_accumulator": known, "eps": eps, "eps_in_root": in_root}
            optimizers = _of_each("adagrad", names, knobs, {})
            if optimizers is not None:
                yield optimizers


def _tried(
    name: str,
    steps_of_side: StepsOfSide,
    update: int,
    names: Sequence[str],
    weights: frozenset[str],
) -> Iterator[Optimizers]:
    """An optimizer with what people write, and the betas that its memory tells."""
    knobs: dict[str, Any] = {}
    for slot, knob in SHARE_OF[name].items():
        beta = steps_of_side.beta(slot, update)
        if beta is not None:
            knobs[knob] = likely(beta.value, beta.error)
    roots = EPS_ROOTS if name == "adabelief" else (0.0,)
    decays_tried = (0.0,) if name == "adabelief" else DECAYS
    for decay, eps, eps_root in product(decays_tried, EPS, roots):
        for decaying in (frozenset(names), weights) if decay else (frozenset(names),):
            decays = {one: decay if one in decaying else 0.0 for one in names}
            optimizers = _of_each(name, names, knobs | {"eps": eps, "eps_root": eps_root}, decays)
            if optimizers is not None:
                yield optimizers


def _of_each(
    name: str, names: Sequence[str], knobs: Mapping[str, Any], decays: Mapping[str, float]
) -> Optimizers | None:
    """One optimizer for each parameter; None where the knobs do not go together."""
    kind = Optimizer.variants[name]
    own = kind.knobs()
    shared = {knob: value for knob, value in knobs.items() if knob in own}
    if name == "sgd":
        shared = {"momentum": 0.0} | shared
    made: dict[float, Optimizer] = {}
    optimizers: Optimizers = {}
    for one in names:
        decay = decays.get(one, 0.0)
        if decay not in made:
            decayed = {"weight_decay": decay} if "weight_decay" in own else {}
            try:
                made[decay] = kind(**shared | decayed)
            except ValueError:
                return None
        optimizers[one] = made[decay]
    return optimizers


def _plain(estimate: Estimate) -> float:
    """What somebody may have written."""
    return likely(estimate.value, max(estimate.error, 1e-9 * abs(estimate.value)))
