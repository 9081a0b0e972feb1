"""What the numbers of a step stand for: learning rate, betas, decay, and whether moments are
corrected for their start at 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lockstep.diagnose.local.corrections import (
    CORRECTED,
    NUMBERS,
    Correction,
    corrections_of,
    nadam_ratio,
)
from lockstep.diagnose.local.least_squares import Estimate, pooled
from lockstep.diagnose.local.rules import Memory
from lockstep.diagnose.local.samples import Sample
from lockstep.diagnose.local.slot_fits import SlotFit, is_unlike, mixed_share
from lockstep.diagnose.local.step_fits import StepFit
from lockstep.oracle.arithmetic import unit_roundoff

__all__ = ["Reading", "Steps", "added_decay"]

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


SHARP = 0.1
"""Relative error below which a number divides others."""
NEAR = 1e-3
"""Relative distance within which the two directions of NAdam tell its momentum."""
MOST_GROUPS = 4
"""Learning rates that a loop may have without reporting them."""


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
        scale: the factor from the recorded gradient to the one that the optimizer was given.
        norm: 2-norm of the recorded gradient.
        is_one_length: whether `lengths` stand for a learning rate, up to a factor that the betas
            give.
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
    scale: Estimate | None = None
    norm: float | None = None
    is_one_length: bool = False


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
        starts_empty: whether the optimizer is known to have begun with the first update.
        later_rule: of the first update, the optimizer by a later one; "" where it is not known.
        scale: the factor from the recorded gradient to the one that the optimizer was given.
        norm: 2-norm of the recorded gradient.
    """

    update: int
    samples: Sequence[Sample]
    fits: Mapping[str, tuple[str, SlotFit | None]]
    memory: Memory
    betas: Mapping[str, Estimate]
    step: StepFit
    recorded: Sequence[float]
    is_given: bool
    starts_empty: bool
    later_rule: str
    scale: Estimate | None
    norm: float | None

    def steps(self) -> Steps | None:
        """All settings; None where the rule is one of two that differ in the learning rate alone,
        and that is not the one recorded.
        """
        lengths = {name: lengths[0] for name, lengths in self.step.steps.items()}
        numbers: dict[str, Estimate] = {}
        if self.step.rule.width == 2 and self.step.rule.name == "sgd":
            lengths = self._two_directions(numbers)
        elif self.step.rule.width == 2:
            unknown = Estimate(math.nan, math.inf)
            for name, both in self.step.steps.items():
                lengths[name] = both[0] if all(map(_is_sharp, both)) else unknown
        corrections = self._corrections()
        matching = self._matching(corrections, lengths)
        if self.step.rule.name == "radam" and not matching:
            return None
        correction = matching[0] if matching else corrections[0]
        rule = self._name(correction)
        numbers = self._numbers(rule) | numbers
        if rule == "sgd" and not self.step.rule.slots and self.update:
            numbers["momentum"] = Estimate(0.0, 0.0)
        if len(matching) == 1:
            numbers |= self._of_correction(correction, len(corrections))
        floor = self._floor()
        rates: dict[str, Estimate] = {}
        if matching or self._is_sure():
            rates = self._rates(lengths, correction.factor, floor)
        is_known = bool(self.step.rule.slots) or self.is_given
        if self.step.rule.slots == {"second"} and self.memory.decay:
            is_known = False  # eps is told by small steps, which an error of the decay moves
        if self.step.eps is not None and is_known and math.isfinite(correction.eps):
            power = 2 if self.step.rule.eps_in_root else 1
            eps = self.step.eps.times(1 / correction.eps**power)
            numbers["eps"] = eps.with_floor(abs(eps.value) * floor)
            if is_unlike(eps):
                numbers["eps in the root"] = Estimate(float(self.step.rule.eps_in_root), 0.0)
        added = added_decay(self.fits)
        decays = self._decays(lengths, correction, floor)
        if not rates and not self.step.rule.slots:
            decays = {}
        if self.step.rule.name == "sgd" and not self.step.rule.slots:
            decays, added = {}, decays  # without a memory both kinds are one
        return Steps(
            update=self.update,
            rule=rule,
            numbers=numbers,
            rates=rates,
            decays=decays,
            added=added,
            ndims={sample.name: sample.ndim for sample in self.samples},
            lengths={
                name: length.with_floor(abs(length.value) * floor)
                for name, length in lengths.items()
            },
            factors={other.kind: other.factor for other in reversed(corrections)},
            recorded=self.recorded,
            scale=self.scale,
            norm=self.norm,
            is_one_length=rule in CORRECTED and self._are_of_groups(lengths),
        )

    def _rates(
        self, lengths: Mapping[str, Estimate], factor: float, floor: float
    ) -> dict[str, Estimate]:
        """Parameter -> its learning rate; empty where each tensor has one of its own."""
        rates: dict[str, Estimate] = {}
        for name, length in lengths.items():
            rate = _over(length, factor)
            if _is_sharp(rate):
                rates[name] = rate.with_floor(abs(rate.value) * floor)
        return rates if self._are_of_groups(rates) else {}

    def _name(self, correction: Correction) -> str:
        """The optimizer; Adagrad is RMSprop that forgets nothing."""
        second = self.betas.get("second")
        # before the first update there is nothing to forget
        forgotten = (0.0, 1.0) if self.update == 0 else (1.0,)
        if self.step.rule.name != "rmsprop" or second is None:
            return correction.rule or self.step.rule.name
        if not all(is_unlike(second, share) for share in forgotten):
            return "adagrad"
        return correction.rule or self.step.rule.name

    def _numbers(self, rule: str) -> dict[str, Estimate]:
        """The shares of the memory, and which second moment is the largest."""
        numbers: dict[str, Estimate] = {}
        for slot, beta in self.betas.items():
            quantity = OTHER_QUANTITIES.get(rule, QUANTITIES).get(slot)
            has_effect = slot != "momentum" or self.update > 0  # the first is the gradient
            if quantity and has_effect:
                numbers[quantity] = beta
        if "mixed" in self.memory.betas and rule == "lion":
            mixed = mixed_share(self.samples)
            if mixed is not None:
                numbers["beta1"] = mixed
        largest = self.memory.kind.get("largest_second")
        if largest in ("largest", "corrected"):
            numbers["amsgrad"] = Estimate(float(largest == "corrected"), 0.0)
        return numbers

    def _of_correction(self, correction: Correction, ways: int) -> dict[str, Estimate]:
        """What the only way that gives a recorded learning rate says."""
        if correction.kind in NUMBERS and not correction.rule and self.starts_empty:
            return {"bias correction": Estimate(NUMBERS[correction.kind], 0.0)}
        if self.step.rule.name == "sgd" and ways > 1:
            return {"nesterov": Estimate(float(correction.kind == "nesterov"), 0.0)}
        return {}

    def _two_directions(self, numbers: dict[str, Estimate]) -> dict[str, Estimate]:
        """The lengths along the momentum, or along the gradient where the step looks ahead."""
        ahead = pooled([lengths[1] for lengths in self.step.steps.values()])
        along = pooled([lengths[0] for lengths in self.step.steps.values()])
        place = int(is_unlike(ahead))
        _, memory = self.fits["momentum"]
        if place and not is_unlike(along) and memory is not None and memory.kept is not None:
            # PyTorch's foreach writes Nesterov's direction over the gradient: what was recorded is
            # g + momentum m', so that m' holds 1 / (1 + momentum) of it
            numbers["momentum"] = memory.kept.times(1 / memory.entered.value)
        elif not place and self.is_given and memory is not None and self.update:
            entered = memory.entered
            numbers["dampening"] = Estimate(1 - entered.value, entered.spread, entered.floor)
        if math.isfinite(ahead.spread):
            numbers["nesterov"] = Estimate(float(place), 0.0)
        lengths: dict[str, Estimate] = {}
        for name, both in self.step.steps.items():
            is_told = all(math.isfinite(length.spread) for length in both)
            lengths[name] = both[place] if is_told else Estimate(math.nan, math.inf)
        return lengths

    def _corrections(self) -> list[Correction]:
        """The ways from a learning rate to the length of the step."""
        corrections = corrections_of(self.step.rule, self.memory, self.update)
        known = "" if self.later_rule == self.step.rule.name else self.later_rule
        if self.later_rule and any(way.rule == known for way in corrections):
            corrections = [way for way in corrections if way.rule == known]
        if self.step.rule.name != "nadam":
            return corrections
        # the two directions of NAdam tell whether its momentum grows
        first = pooled([lengths[0] for lengths in self.step.steps.values()])
        second = pooled([lengths[1] for lengths in self.step.steps.values()])
        ratio = first.value / second.value if second.value else math.nan
        gaps = [abs(ratio / nadam_ratio(self.memory, ramp) - 1) for ramp in (True, False)]
        nearest = corrections[gaps.index(min(gaps))] if min(gaps) < NEAR else None
        return [nearest or Correction("corrected", math.nan, math.nan)]

    def _matching(
        self, corrections: Sequence[Correction], lengths: Mapping[str, Estimate]
    ) -> list[Correction]:
        """The ways by which all steps have a rate that was recorded."""
        known = [length for length in lengths.values() if _is_sharp(length)]
        return [
            way
            for way in corrections
            if known
            and all(
                self._is_one_of(length, [rate * way.factor for rate in self.recorded])
                for length in known
            )
        ]

    def _is_one_of(self, length: Estimate, expected: Sequence[float]) -> bool:
        known = length.with_floor(abs(length.value) * self._floor())
        return any(math.isfinite(rate) and not is_unlike(known, rate) for rate in expected)

    def _is_sure(self) -> bool:
        """Whether a step tells the learning rate although none that was recorded fits it: not where
        the rule may remember, or scale the gradient by, what was not recorded.
        """
        rule = self.step.rule
        if rule.slots == {"first", "second"} and not self.update and not self.later_rule:
            return False  # several rules have these slots, and one direction at the first update
        if rule.slots:
            is_counted = self.starts_empty or rule.name not in CORRECTED
            return is_counted and not rule.only_first and rule.slots != {"momentum", "second"}
        return rule.name == "sgd" and self.is_given and self.update > 0

    def _are_of_groups(self, rates: Mapping[str, Estimate]) -> bool:
        """Whether the learning rates are one, or those of a few groups: not where each tensor has
        one of its own, as the trust ratio of LAMB gives.
        """
        groups: list[Estimate] = []
        for rate in sorted(rates.values(), key=lambda rate: rate.error):
            known = [_gap(rate, other) for other in groups]
            if all(map(is_unlike, known)):
                groups.append(rate)
        return len(groups) <= max(1, min(MOST_GROUPS, len(rates) // 2))

    def _decays(
        self, lengths: Mapping[str, Estimate], correction: Correction, floor: float
    ) -> dict[str, Estimate]:
        """Parameter -> its decay over its learning rate."""
        added = added_decay(self.fits).values()
        if self.step.rule.slots == {"second"} and any(map(is_unlike, added)):
            return {}  # how much of it is in the gradient is known too roughly
        shares: dict[str, Estimate] = {}
        for name, decay in self.step.decays.items():
            rate = _over(lengths[name], correction.factor)
            if _is_sharp(rate) and math.isfinite(decay.spread):
                share = decay.times(1 / rate.value)
                relative = abs(share.value / rate.value)
                spread = math.hypot(share.spread, relative * rate.spread)
                rough = abs(share.value) * floor
                shares[name] = Estimate(share.value, spread, share.floor + rough)
        return shares

    def _floor(self) -> float:
        """A relative error that the step of every element may have: of a rounded rate, and of 1 -
        beta^t in float32.
        """
        unit = max(sample.unit for sample in self.samples)
        floor = 4 * unit
        if self.step.rule.slots == {"second"}:
            # an error of the decay in the gradient is one of the direction
            sure = [share for share in added_decay(self.fits).values() if is_unlike(share)]
            floor += 4 * min((share.error / abs(share.value) for share in sure), default=0.0)
        if self.step.rule.name in CORRECTED:
            rough = max(unit_roundoff("float32"), unit)
            for slot in ("first", "second"):
                left = 1 - self.memory.betas.get(slot, 0.0) ** self.memory.count
                floor += 2 * rough / left if left > 0 else 0.0
        return floor


def _is_sharp(estimate: Estimate) -> bool:
    """Whether a number is known well enough to divide by."""
    return math.isfinite(estimate.value) and estimate.error < SHARP * abs(estimate.value)


def _over(length: Estimate, factor: float) -> Estimate:
    """The estimate over a factor, which may be 0 or NaN."""
    return length.times(1 / factor if factor else math.nan)


def _gap(a: Estimate, b: Estimate) -> Estimate:
    return Estimate(a.value - b.value, math.hypot(a.error, b.error))
