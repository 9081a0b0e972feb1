"""What the numbers of a step stand for: learning rate, betas, decay, and whether moments are
corrected for their start at 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lockstep.diagnose.local.least_squares import Estimate, pooled
from lockstep.diagnose.local.rules import Memory
from lockstep.diagnose.local.samples import Sample
from lockstep.diagnose.local.slot_fits import SlotFit, is_apart
from lockstep.diagnose.local.step_fits import StepFit
from lockstep.oracle.arithmetic import unit_roundoff

__all__ = ["CORRECTED", "CORRECTIONS", "Reading", "Steps", "added_decay"]

CORRECTED = ("adam", "nadam", "radam", "amsgrad", "adamax", "adabelief")
"""Rules that correct their moments for the start at 0."""
CORRECTIONS = {
    "corrected": 1.0,
    "uncorrected": 0.0,
    "first moment alone": 2.0,
    "second moment alone": 3.0,
}
"""Which moments are corrected -> the number that stands for it."""
QUANTITIES = {
    "first": "beta1",
    "second": "beta2",
    "infinity": "beta2",
    "momentum": "momentum",
    "mean": "momentum",
}
OTHER_QUANTITIES = {
    "rmsprop": {"second": "decay"},
    "lion": {"first": "beta2"},
    "adagrad": {"second": ""},
}
"""Slot -> the knob that says how much of it is kept; of some rules another one."""


@dataclass(frozen=True)
class Steps:
    """The settings of an update as its own numbers give them.

    Attributes:
        update: counted from 0.
        rule: the name of the optimizer.
        numbers: quantity -> what it is for all parameters.
        rates: parameter -> the learning rate that was applied.
        decays: parameter -> the weight decay that acts on the parameter itself, as a part of the
            rate (decoupled).
        added: parameter -> the weight decay that is added to its gradient (L2).
        ndims: parameter -> its axes.
        lengths: parameter -> what its direction was multiplied by.
        factors: kind of bias correction -> that over the learning rate.
        recorded: the learning rates that the loop reports.
    """

    update: int
    rule: str
    numbers: Mapping[str, Estimate]
    rates: Mapping[str, Estimate]
    decays: Mapping[str, Estimate]
    added: Mapping[str, Estimate]
    ndims: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, Estimate] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    recorded: Sequence[float] = ()


def added_decay(fits: Mapping[str, tuple[str, SlotFit | None]]) -> dict[str, Estimate]:
    """Parameter -> weight decay in the gradient, by the slot that tells it."""
    for slot in ("first", "momentum", "mean", "second"):
        _, slot_fit = fits.get(slot, ("", None))
        if slot_fit is not None and slot_fit.decay:
            return dict(slot_fit.decay)
    return {}


@dataclass(frozen=True)
class Reading:
    """The settings that the numbers of a rule stand for.

    Attributes:
        update: counted from 0.
        samples: elements of the update.
        fits: slot -> the kind of its memory, and its numbers.
        memory: what is known of the optimizer's memory.
        betas: slot -> the share that it keeps.
        step: the numbers of the rule.
        recorded: the learning rates that the loop reports.
        is_given: whether the gradients are known to be those that the optimizer was given.
    """

    update: int
    samples: Sequence[Sample]
    fits: Mapping[str, tuple[str, SlotFit | None]]
    memory: Memory
    betas: Mapping[str, Estimate]
    step: StepFit
    recorded: Sequence[float]
    is_given: bool

    def steps(self) -> Steps:
        """All settings."""
        numbers: dict[str, Estimate] = {}
        for slot, beta in self.betas.items():
            quantity = OTHER_QUANTITIES.get(self._name, QUANTITIES).get(slot)
            has_effect = slot != "momentum" or self.update > 0  # the first is the gradient
            if quantity and has_effect:
                numbers[quantity] = beta
        largest = self.memory.kind.get("largest_second")
        if largest in ("largest", "corrected"):
            numbers["amsgrad"] = Estimate(float(largest == "corrected"), 0.0)
        lengths = {name: lengths[0] for name, lengths in self.step.steps.items()}
        if self.step.rule.width == 2 and self.step.rule.name == "sgd":
            lengths = self._two_directions(numbers)
        factors = self._factors()
        kinds = self._matching(factors, lengths)
        kind = kinds[0] if kinds else next(iter(factors))
        factor, eps_factor = factors[kind]
        if len(kinds) == 1 and self.step.rule.name in CORRECTED:
            numbers["bias correction"] = Estimate(CORRECTIONS[kind], 0.0)
        elif len(kinds) == 1 and len(factors) > 1:
            numbers["nesterov"] = Estimate(float(kind == "nesterov"), 0.0)
        floor = self._floor()
        rates = {}
        for name, length in lengths.items():
            rate = length.times(1 / factor)
            if math.isfinite(rate.value) and (kinds or self._is_sure()):
                rates[name] = rate.with_floor(abs(rate.value) * floor)
        is_known = bool(self.step.rule.slots) or self.is_given
        if self.step.eps is not None and is_known and math.isfinite(eps_factor):
            eps = self.step.eps.times(1 / eps_factor)
            numbers["eps"] = eps.with_floor(abs(eps.value) * floor)
        added = added_decay(self.fits)
        decays = _over(self.step.decays, rates)
        if self.step.rule.name == "sgd" and not self.step.rule.slots:
            decays, added = {}, decays  # without a memory both kinds are one
        return Steps(
            update=self.update,
            rule=self._name,
            numbers=numbers,
            rates=rates,
            decays=decays,
            added=added,
            ndims={sample.name: sample.ndim for sample in self.samples},
            lengths={
                name: length.with_floor(abs(length.value) * floor)
                for name, length in lengths.items()
            },
            factors={kind: factor for kind, (factor, _) in factors.items()},
            recorded=self.recorded,
        )

    @property
    def _name(self) -> str:
        _, second = self.fits.get("second", ("", None))
        kept = second.kept if second is not None else None
        if self.step.rule.name == "rmsprop" and kept and not is_apart(kept, 1.0):
            return "adagrad"
        return self.step.rule.name

    def _two_directions(self, numbers: dict[str, Estimate]) -> dict[str, Estimate]:
        """The lengths along the momentum, or along the gradient where the step looks ahead."""
        ahead = pooled([lengths[1] for lengths in self.step.steps.values()])
        place = int(is_apart(ahead))
        if math.isfinite(ahead.spread):
            numbers["nesterov"] = Estimate(float(place), 0.0)
        return {name: lengths[place] for name, lengths in self.step.steps.items()}

    def _factors(self) -> dict[str, tuple[float, float]]:
        """Which moments are corrected -> the length of a step over the learning rate, and eps as it
        was fitted over eps. The usual one comes first.
        """
        count = self.memory.count
        name = self.step.rule.name
        if name == "sgd" and self.step.rule.only_first and "momentum" in self.betas:
            return {"plain": (1.0, 1.0), "nesterov": (1 + self.betas["momentum"].value, 1.0)}
        if name not in CORRECTED:
            return {"plain": (1.0, 1.0)}
        first = 1 - self.memory.betas.get("first", math.nan) ** count
        largest = self.memory.kind.get("largest_second")
        if name in ("adamax", "radam") or largest == "corrected":
            return {"corrected": (1 / first, 1.0), "uncorrected": (1.0, 1.0)}
        root = math.sqrt(max(1 - self.memory.betas.get("second", math.nan) ** count, 0.0))
        return {
            "corrected": (root / first, root),
            "uncorrected": (1.0, 1.0),
            "first moment alone": (1 / first, 1.0),
            "second moment alone": (root, root),
        }

    def _matching(
        self, factors: Mapping[str, tuple[float, float]], lengths: Mapping[str, Estimate]
    ) -> list[str]:
        """The kinds of correction by which most steps have a rate that was recorded."""
        matches: dict[str, int] = {}
        for kind, (factor, _) in factors.items():
            expected = [rate * factor for rate in self.recorded]
            matches[kind] = sum(self._is_one_of(length, expected) for length in lengths.values())
        most = max(matches.values(), default=0)
        if not most or 2 * most < len(lengths):
            return []
        return [kind for kind, count in matches.items() if count == most]

    def _is_one_of(self, length: Estimate, expected: Sequence[float]) -> bool:
        if not math.isfinite(length.spread):
            return False
        known = length.with_floor(abs(length.value) * self._floor())
        return any(math.isfinite(rate) and not is_apart(known, rate) for rate in expected)

    def _is_sure(self) -> bool:
        """Whether a step tells the learning rate although none that was recorded fits it: not where
        the rule may remember, or scale the gradient by, what was not recorded.
        """
        rule = self.step.rule
        if rule.slots:
            return not rule.only_first
        return rule.name == "sgd" and self.is_given and self.update > 0

    def _floor(self) -> float:
        """A relative error that the step of every element may have: of a rounded rate, and of 1 -
        beta^t in float32.
        """
        unit = max(sample.unit for sample in self.samples)
        floor = 4 * unit
        if self.step.rule.name in CORRECTED:
            rough = max(unit_roundoff("float32"), unit)
            for slot in ("first", "second"):
                left = 1 - self.memory.betas.get(slot, 0.0) ** self.memory.count
                floor += 2 * rough / left if left > 0 else 0.0
        return floor


def _over(decays: Mapping[str, Estimate], rates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The decays, each over its rate."""
    shares: dict[str, Estimate] = {}
    for name, decay in decays.items():
        rate = rates.get(name)
        if rate is not None and rate.value and math.isfinite(decay.spread + rate.spread):
            share = decay.times(1 / rate.value)
            relative = abs(share.value / rate.value)
            spread = math.hypot(share.spread, relative * rate.spread)
            shares[name] = Estimate(share.value, spread, share.floor + relative * rate.floor)
    return shares
