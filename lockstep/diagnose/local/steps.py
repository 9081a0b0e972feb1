"""The settings of an optimizer as the steps of one loop give them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from lockstep.diagnose.local.corrections import rectified_length
from lockstep.diagnose.local.difference import SURE
from lockstep.diagnose.local.gradient_scale import clip_scale, norm_of_gradient
from lockstep.diagnose.local.least_squares import Estimate, pooled
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.local.readings import Reading, Steps, added_decay
from lockstep.diagnose.local.rules import RULES, Memory, Rule
from lockstep.diagnose.local.samples import Sample, read_samples
from lockstep.diagnose.local.slot_fits import (
    SlotFit,
    fit_difference,
    fit_largest,
    fit_mean,
    fit_square,
    is_unlike,
    mixed_share,
    settled,
)
from lockstep.diagnose.local.step_fits import StepFit, fit_step
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["StepsOfSide", "measure_steps"]

MEANS = ("first", "momentum", "mean")
LATER = 3
"""Updates after the first that the betas are read from."""
DIGITS = 3
"""A share with so few digits is one that somebody wrote, and no product of chance."""


def measure_steps(trace: Trace, update: int) -> list[Measurement]:
    """The optimizer's settings as a side's own gradients, moments and parameters give them.

    Nothing is said where no known rule explains the step up to rounding, or where its inputs were
    not recorded.

    Args:
        trace: of a loop.
        update: counted from 0; one that was recorded in detail.
    """
    steps = StepsOfSide(trace).at(update)
    return [] if steps is None else _measurements(steps)


class StepsOfSide:
    """The updates of one trace, each measured once."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._samples: dict[int, list[Sample]] = {}
        self._fits: dict[int, dict[str, tuple[str, SlotFit | None]]] = {}
        self._steps: dict[int, Steps | None] = {}

    @property
    def updates(self) -> list[int]:
        """The updates that were recorded in detail, with the parameters before and after."""
        recorded = set(self.trace.recorded_updates)
        detail = self.trace.header.get("detail", [])
        return [update for update in detail if update in recorded and update + 1 in recorded]

    def at(self, update: int) -> Steps | None:
        """The settings of an update; None where no rule explains it."""
        if update not in self._steps:
            with np.errstate(all="ignore"):
                self._steps[update] = self._measure(update)
        return self._steps[update]

    def _measure(self, update: int) -> Steps | None:
        samples = self.samples(update)
        if not samples:
            return None
        fits = self.slot_fits(update)
        memory = self._memory(update, fits)
        best = self._best(samples, memory, update)
        if best is None:
            return None
        betas = {slot: self.beta(slot, update) for slot in fits}
        return Reading(
            starts_empty=self.starts_empty,
            later_rule="" if update else self.later_rule,
            scale=self._scale(update, fits),
            norm=norm_of_gradient(self.trace, update),
            update=update,
            samples=samples,
            fits=fits,
            memory=memory,
            betas={slot: beta for slot, beta in betas.items() if beta is not None},
            step=best,
            recorded=self.rates(update),
            is_given=self.is_given(update),
        ).steps()

    def _best(self, samples: Sequence[Sample], memory: Memory, update: int) -> StepFit | None:
        """The simplest rule that explains a step. At the first update several may; then one that
        explains a later update comes first.
        """
        names = frozenset(samples[0].moments)
        rules = [r for r in RULES if r.slots == names and _is_possible(r, memory, update)]
        known = self.later_rule if not update else ""
        rules.sort(key=lambda rule: rule.name != known)
        best: StepFit | None = None
        for rule in rules:
            if best is not None and rule.name != best.rule.name:
                break
            step = fit_step(samples, rule, memory)
            best = step if best is None else _better(best, step)
            if best is not None and (best.eps is None or not is_unlike(best.eps)):
                break
        return best

    def is_explained(self, update: int, name: str) -> bool:
        """Whether an optimizer of this name explains an update as well."""
        samples = self.samples(update)
        memory = self._memory(update, self.slot_fits(update))
        for rule in RULES:
            is_other = rule.name != name or rule.slots != frozenset(samples[0].moments)
            if is_other or not _is_possible(rule, memory, update):
                continue
            with np.errstate(all="ignore"):
                step = fit_step(samples, rule, memory)
            if step is None:
                continue
            first = pooled([lengths[0] for lengths in step.steps.values()])
            last = pooled([lengths[-1] for lengths in step.steps.values()])
            is_known = last.error < 1e-2 * abs(first.value)
            # where the second direction is known to count for nothing, it is the simpler rule
            if rule.width == 1 or is_unlike(last) or not is_known:
                return True
        return False

    @cached_property
    def later_rule(self) -> str:
        """The optimizer by the next update after the first; "" where it is not known."""
        later = next((update for update in self.updates if update), None)
        steps = self.at(later) if later is not None else None
        return "" if steps is None else steps.rule

    @cached_property
    def starts_empty(self) -> bool:
        """Whether the moments of the first update hold its gradient alone."""
        if 0 not in self.updates:
            return False
        kinds = [kind for kind, _ in self.slot_fits(0).values()]
        return "none" not in kinds and "unknown" not in kinds

    def samples(self, update: int) -> list[Sample]:
        """Elements of the update: of the parameters that share the commonest set of slots."""
        if update not in self._samples:
            samples = read_samples(self.trace, update)
            sets: dict[frozenset[str], int] = {}
            for sample in samples:
                slots = frozenset(sample.moments)
                sets[slots] = sets.get(slots, 0) + len(sample.before)
            most = max(sets, key=lambda slots: sets[slots], default=frozenset())
            self._samples[update] = [s for s in samples if frozenset(s.moments) == most]
        return self._samples[update]

    def slot_fits(self, update: int) -> dict[str, tuple[str, SlotFit | None]]:
        """Slot -> the kind of its memory, and its numbers."""
        if update not in self._fits:
            self._fits[update] = _slot_fits(self.samples(update))
        return self._fits[update]

    @cached_property
    def betas(self) -> dict[str, Estimate]:
        """Slot -> the share that it keeps, from the updates after the first; before them there is
        nothing to keep.
        """
        shares: dict[str, list[Estimate]] = {}
        later = [update for update in self.updates if update and update - 1 in self.updates]
        for update in later[:LATER]:
            for slot, (_, slot_fit) in self.slot_fits(update).items():
                if slot_fit is not None and slot_fit.kept is not None:
                    shares.setdefault(slot, []).append(_share(slot, slot_fit))
        betas = {slot: pooled(_agreeing(estimates)) for slot, estimates in shares.items()}
        return {slot: beta for slot, beta in betas.items() if math.isfinite(beta.spread)}

    def beta(self, slot: str, update: int) -> Estimate | None:
        """The share that a slot keeps; None where nothing tells."""
        if slot in self.betas:
            return self.betas[slot]
        _, slot_fit = self.slot_fits(update).get(slot, ("", None))
        if slot_fit is None or slot == "momentum" or not math.isfinite(slot_fit.entered.spread):
            return None
        entered = slot_fit.entered
        if not (self.is_given(update) or _is_written(entered)):
            return None  # a gradient that was scaled on its way would look like another beta
        return Estimate(1 - entered.value, entered.spread, entered.floor)

    def _scale(
        self, update: int, fits: Mapping[str, tuple[str, SlotFit | None]]
    ) -> Estimate | None:
        """The factor from the recorded gradient to the one that the optimizer remembers; None where
        it is not known.
        """
        if not self.is_given(update) and not any(slot in fits for slot in MEANS):
            return None  # without a memory the step shows a scale times a rate
        inner = Estimate(1.0, 0.0)
        for slot in MEANS:
            _, slot_fit = fits.get(slot, ("", None))
            beta = self.betas.get(slot)
            if slot_fit is None or (beta is None and slot != "momentum"):
                continue
            if slot == "momentum" and update:
                return None  # dampening scales the gradient too
            entered = slot_fit.entered
            if slot == "momentum" and self._takes_in_a_share(entered):
                return None
            share = 1.0 if slot == "momentum" or beta is None else 1 - beta.value
            inner = entered.times(1 / share)
            error = 0.0 if beta is None else abs(inner.value) * beta.error / abs(share)
            inner = Estimate(inner.value, math.hypot(inner.spread, error), inner.floor)
        outer = clip_scale(self.trace, update) if self.is_given(update) else Estimate(1.0, 0.0)
        if outer is None:
            return None
        return Estimate(
            inner.value * outer.value,
            math.hypot(inner.spread * outer.value, outer.spread * inner.value),
            inner.floor * abs(outer.value),
        )

    def _takes_in_a_share(self, entered: Estimate) -> bool:
        """Whether the share of the gradient that enters the momentum at first does so later on:
        then it is no clip.
        """
        later = next((update for update in self.updates if update), None)
        _, slot_fit = self.slot_fits(later).get("momentum", ("", None)) if later else ("", None)
        if slot_fit is None or not is_unlike(entered, 1.0):
            return False
        return not is_unlike(_gap(entered, slot_fit.entered))

    def is_given(self, update: int) -> bool:
        """Whether the gradients were recorded as the optimizer was given them."""
        prefix = f"detail/{update}/clip/"
        return any(name.startswith(prefix) for name in self.trace.arrays)

    def count(self, update: int) -> int:
        """The updates done with this one, without those that changed nothing although they had a
        learning rate: a gradient scaler skips them.
        """
        norms = self.trace.arrays.get("updates/update_norm")
        rates = self.trace.arrays.get("updates/lr")
        if norms is None or rates is None or norms.shape != rates.shape:
            return update + 1
        still = np.flatnonzero((norms[:update] == 0) & (rates[:update] != 0))
        return update + 1 - sum(self._has_gradient(int(place)) for place in still)

    def _has_gradient(self, update: int) -> bool:
        """Whether there was something to step along, as far as it is known."""
        gradients = arrays_below(self.trace.arrays, f"detail/{update}/gradients/")
        return not gradients or any((array != 0).any() for array in gradients.values())

    def rates(self, update: int) -> list[float]:
        """The learning rates that were recorded, one for each group."""
        place = update - self.trace.first_update
        series = [
            array for name, array in self.trace.arrays.items() if name.startswith("updates/lr")
        ]
        return [float(rates[place]) for rates in series if 0 <= place < len(rates)]

    def _memory(self, update: int, fits: Mapping[str, tuple[str, SlotFit | None]]) -> Memory:
        kinds = {slot: kind for slot, (kind, _) in fits.items()}
        betas: dict[str, float] = {}
        for slot in kinds:
            beta = self.beta(slot, update)
            betas[slot] = math.nan if beta is None else beta.value
        mixed = mixed_share(self.samples(update)) if kinds.keys() == {"first"} else None
        if mixed is not None:
            betas["mixed"] = mixed.value
        return Memory(kinds, betas, self.count(update), settled(added_decay(fits)))


def _better(outside: StepFit, in_root: StepFit | None) -> StepFit:
    """Of eps outside the root and in it the one that explains more; where they explain as much, eps
    is not known.
    """
    if in_root is None:
        return outside
    gain = outside.misfit - in_root.misfit
    if abs(gain) < SURE**2:
        return replace(outside, eps=None)
    return in_root if gain > 0 else outside


def _slot_fits(samples: Sequence[Sample]) -> dict[str, tuple[str, SlotFit | None]]:
    if not samples:
        return {}
    slots = list(samples[0].moments)
    if any(sample.earlier is None for sample in samples):
        return dict.fromkeys(slots, ("unknown", None))
    fits: dict[str, tuple[str, SlotFit | None]] = {}
    for slot in (slot for slot in slots if slot in MEANS):
        if slot == "momentum" and "second" in slots:
            fits[slot] = ("steps", None)
            continue
        mean = fit_mean(samples, slot)
        fits[slot] = ("mean" if mean else "none", mean)
    if "second" in slots:
        has_mean = "first" in slots
        decay = settled(added_decay(fits)) if has_mean else None
        square = fit_square(samples, "second", decay)
        kind = "square" if square else "none"
        if square is None and has_mean:
            square = fit_difference(samples, "second", "first")
            kind = "difference" if square else "none"
        if square is None and has_mean:
            square = fit_largest(samples, "second", decay or {})
            kind = "largest" if square else "none"
        fits["second"] = (kind, square)
    if "infinity" in slots:
        largest = fit_largest(samples, "infinity", settled(added_decay(fits)))
        fits["infinity"] = ("largest" if largest else "none", largest)
    if "largest_second" in slots and "second" in slots:
        kind = "largest" if _is_largest_raw(samples) else "corrected"
        fits["largest_second"] = (kind, None)
    for slot in slots:
        fits.setdefault(slot, ("largest", None))
    return fits


def _is_largest_raw(samples: Sequence[Sample]) -> bool:
    """Whether the largest second moment is one of those that are recorded beside it."""
    for sample in samples:
        assert sample.earlier is not None
        largest = sample.moments["largest_second"]
        second = sample.moments["second"]
        is_new = largest > sample.earlier.get("largest_second", np.zeros_like(largest))
        if is_new.any():
            return bool((largest[is_new] == second[is_new]).mean() > 0.5)
    return True


def _is_possible(rule: Rule, memory: Memory, update: int) -> bool:
    if rule.only_first and update:
        return False
    if not update and rule.width == 2:
        return False  # both directions are one
    if rule.name == "lion" and update and "mixed" not in memory.betas:
        return False
    if rule.name == "radam" and not rectified_length(memory.betas["second"], memory.count) <= 5:
        return False
    return all(memory.kind[slot] in (kind, "unknown") for slot, kind in rule.kinds.items())


def _share(slot: str, slot_fit: SlotFit) -> Estimate:
    """The share that a slot keeps; of a mean, 1 minus the share that enters tells it too."""
    kept = slot_fit.kept
    assert kept is not None
    if slot == "momentum":
        return kept
    entered = slot_fit.entered
    if slot == "infinity" or not math.isfinite(entered.spread):
        return kept
    other = Estimate(1 - entered.value, entered.spread, entered.floor)
    gap = Estimate(kept.value - other.value, math.hypot(kept.error, other.error))
    return kept if is_unlike(gap) else pooled([kept, other])


def _agreeing(shares: Sequence[Estimate]) -> list[Estimate]:
    """The shares that most updates have: one update may have forgotten or mixed up its memory. None
    where no two of several agree.
    """
    groups = [[other for other in shares if not is_unlike(_gap(share, other))] for share in shares]
    largest = max(groups, key=len, default=[])
    return largest if len(largest) > 1 or len(shares) == 1 else []


def _is_written(share: Estimate) -> bool:
    """Whether a share has few digits."""
    if share.value <= 0:
        return False
    rounded = float(f"{share.value:.{DIGITS}g}")
    return not is_unlike(share, rounded) and share.error < 1e-4 * share.value


def _measurements(steps: Steps) -> list[Measurement]:
    """The settings, each of all parameters where it is one for all."""
    measurements: list[Measurement] = []
    for quantity, estimate in steps.numbers.items():
        measurements.append(_measurement(steps, "", quantity, estimate))
    families = {
        "learning rate": steps.rates,
        "weight decay": steps.decays,
        "weight decay in the gradient": steps.added,
    }
    for quantity, estimates in families.items():
        mean = pooled(list(estimates.values()))
        is_one = not any(is_unlike(_gap(estimate, mean)) for estimate in estimates.values())
        if is_one and math.isfinite(mean.spread):
            measurements.append(_measurement(steps, "", quantity, mean))
        elif not is_one:
            measurements += [
                _measurement(steps, name, quantity, estimate)
                for name, estimate in estimates.items()
                if math.isfinite(estimate.spread)
            ]
    return measurements


def _gap(a: Estimate, b: Estimate) -> Estimate:
    return Estimate(a.value - b.value, math.hypot(a.error, b.error))


def _measurement(steps: Steps, tensor: str, quantity: str, estimate: Estimate) -> Measurement:
    return Measurement("update", tensor, steps.update, quantity, estimate.value, estimate.error)
