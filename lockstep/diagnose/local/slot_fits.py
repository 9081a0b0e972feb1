"""What an optimizer keeps of its memory, and how much of the gradient enters it: its betas, or its
momentum, and a weight decay that is added to the gradient (L2).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.local.difference import SURE
from lockstep.diagnose.local.least_squares import (
    RARE,
    Block,
    Estimate,
    Fit,
    clusters_of,
    fit,
    pooled,
)
from lockstep.diagnose.local.samples import Sample
from lockstep.oracle.arithmetic import Array

__all__ = [
    "SlotFit",
    "fit_difference",
    "fit_mean",
    "fit_square",
    "is_unlike",
    "mixed_share",
    "with_decay",
]

SHARP = 1e-5
"""Relative error of a decay below which the gradient with it is as good as recorded."""
SMALL = 1e-3
"""Share of a gradient that eps may have where it is added to it."""
ENOUGH = 8
"""Elements that a rule without a fit needs."""


class SlotFit(NamedTuple):
    """How a slot follows from itself and the gradient.

    Attributes:
        kept: the share of the slot before; None at the first update, where there is none.
        entered: the share of the gradient, or of its square.
        decay: parameter -> the weight decay in the gradient.
    """

    kept: Estimate | None
    entered: Estimate
    decay: Mapping[str, Estimate]


def _ratio(decay: Estimate, entered: Estimate, unit: float) -> Estimate:
    """The share of a parameter over that of the gradient which it is added to."""
    ratio = decay.value / entered.value
    spread = math.hypot(decay.spread, ratio * entered.spread) / abs(entered.value)
    return Estimate(ratio, spread, 2 * unit * abs(ratio))


def is_unlike(estimate: Estimate, other: float = 0.0) -> bool:
    """Whether an estimate is surely not a number."""
    return abs(estimate.value - other) > SURE * estimate.error


def fit_mean(samples: Sequence[Sample], slot: str) -> SlotFit | None:
    """A slot that is a sum of itself and the gradient; None where it is not.

    m' = kept m + entered (g + decay p). Sources: as in `lockstep.oracle.optimizers`.
    """
    if any(sample.earlier is None for sample in samples):
        return None
    result: Fit | None = None
    shares = (1.0, 1.0)
    # the bound holds the shares, which the first fit gives
    for _ in range(2):
        result = fit([_mean_block(sample, slot, shares) for sample in samples])
        values = [abs(estimate.value) for estimate in result.shared]
        shares = (values[0], values[-1])
        if not all(np.isfinite(values)):
            return None
    assert result is not None
    if not result.holds:
        return None
    entered = result.shared[-1]
    if not is_unlike(entered):
        return None
    unit = max(sample.units[slot] for sample in samples)
    decay = {}
    for sample, (own,) in zip(samples, result.own):
        decay[sample.name] = _ratio(own, entered, unit)
    return _slot_fit(result, unit, decay)


def _mean_block(sample: Sample, slot: str, shares: tuple[float, float]) -> Block:
    kept, entered = shares
    gradient = sample.gradient
    target = sample.moments[slot]
    unit = sample.units[slot]
    size = np.abs(target) + 3 * entered * np.abs(gradient)
    columns = [gradient]
    assert sample.earlier is not None
    if sample.earlier:
        before = sample.earlier[slot]
        size = size + 3 * max(kept, entered) * np.abs(before)
        columns = [before, gradient]
    return Block(
        shared=np.stack(columns, axis=1),
        own=sample.before[:, None],
        target=target,
        bound=_above_zero(unit * size + 4 * sample.least),
        cluster=clusters_of(target),
    )


def fit_square(
    samples: Sequence[Sample], slot: str, decay: Mapping[str, float] | None
) -> SlotFit | None:
    """A slot that is a sum of itself and the squared gradient; None where it is not.

    v' = kept v + entered (g + decay p)^2.

    Args:
        samples: elements.
        slot: of the square.
        decay: parameter -> the decay in the gradient, where it is known; else it is fitted.
    """
    if any(sample.earlier is None for sample in samples):
        return None

    def block(sample: Sample, entered: float) -> Block:
        gradient = sample.gradient
        own = np.zeros((len(gradient), 0))
        if decay is None:
            both = gradient * sample.before
            own = np.stack([2 * both, sample.before**2], axis=1)
        else:
            gradient = with_decay(sample, decay)
        made = _square_block(sample, slot, gradient**2, own)
        # a sum of gradient and decay is rounded by its parts, which may all but cancel
        parts = np.abs(sample.gradient) + np.abs(gradient - sample.gradient)
        slack = 4 * entered * sample.units[slot] * np.abs(gradient) * parts
        return made._replace(bound=made.bound + slack)

    result = fit([block(sample, 1.0) for sample in samples])
    for _ in range(2 if decay else 0):
        share = abs(result.shared[-1].value)
        result = fit([block(sample, share) for sample in samples])
    last = result.shared[-1]
    if not result.holds or not is_unlike(last) or last.value < 0:
        return None
    unit = max(sample.units[slot] for sample in samples)
    decays: dict[str, Estimate] = {}
    if decay is None:
        for sample, (both, _) in zip(samples, result.own):
            decays[sample.name] = _ratio(both, last, unit)
    return _slot_fit(result, unit, decays)


def fit_difference(samples: Sequence[Sample], slot: str, mean: str) -> SlotFit | None:
    """A slot that is a sum of itself and (g - m')^2, as of AdaBelief; None where it is not."""
    if any(sample.earlier is None for sample in samples):
        return None
    blocks = []
    for sample in samples:
        distance = sample.gradient - sample.moments[mean]
        block = _square_block(sample, slot, distance**2, np.zeros((len(distance), 0)))
        # Optax adds an eps to the moment at each update
        shared = np.concatenate([np.ones((len(distance), 1)), block.shared], axis=1)
        blocks.append(block._replace(shared=shared))
    result = fit(blocks)
    if not result.holds or not is_unlike(result.shared[-1]):
        return None
    unit = max(sample.units[slot] for sample in samples)
    return _slot_fit(result._replace(shared=result.shared[1:]), unit, {})


def fit_largest(samples: Sequence[Sample], slot: str, decay: Mapping[str, float]) -> SlotFit | None:
    """A slot that is the larger of itself, shrunk, and of the size of the gradient, as of Adamax;
    None where it is not.
    """
    sizes: list[Array] = []
    targets: list[Array] = []
    befores: list[Array] = []
    errors: list[Array] = []
    for sample in samples:
        if sample.earlier is None:
            return None
        added = abs(decay.get(sample.name, 0.0)) * np.abs(sample.before)
        errors.append(16 * sample.units[slot] * (np.abs(sample.gradient) + added))
        targets.append(sample.moments[slot])
        befores.append(sample.earlier.get(slot, np.zeros_like(sample.gradient)))
        sizes.append(np.abs(with_decay(sample, decay)))
    target = np.concatenate(targets)
    before = np.concatenate(befores)
    size = np.concatenate(sizes)
    error = np.concatenate(errors) + 4 * samples[0].least
    rough = max(16 * sample.units[slot] for sample in samples)
    is_new = target >= before
    # the smallest gradients tell eps best, by the rounding of each
    weight = np.where(is_new & (size > 0), 1 / np.fmax(size, samples[0].least), 0.0) ** 2
    eps = float(weight @ (target - size) / weight.sum()) if weight.any() else 0.0
    ratio = target[~is_new] / before[~is_new]
    is_shrunk = np.abs(target[~is_new] - size[~is_new] - eps) > 2 * error[~is_new]
    ratio = ratio[is_shrunk]
    kept = float(np.median(ratio)) if len(ratio) else math.nan
    expected = np.fmax(kept * before, size + eps)
    are_equal = np.abs(target - expected) <= rough * target + error
    is_small = abs(eps) <= SMALL * float(np.median(size[size > 0])) if (size > 0).any() else False
    if len(target) < ENOUGH or not is_small or are_equal.mean() < 1 - RARE:
        return None
    share = Estimate(kept, rough * kept) if len(ratio) else None
    return SlotFit(share, Estimate(1.0, math.inf), {})


def _square_block(sample: Sample, slot: str, square: Array, own: Array) -> Block:
    target = sample.moments[slot]
    columns = [square]
    assert sample.earlier is not None
    if sample.earlier:
        columns = [sample.earlier[slot], square]
    # below the smallest normal number some libraries keep none of a square
    size = 8 * sample.units[slot] * np.abs(target) + 4 * sample.least
    shared = np.stack(columns, axis=1)
    return Block(shared, own, target, _above_zero(size), clusters_of(target))


def _slot_fit(result: Fit, unit: float, decay: Mapping[str, Estimate]) -> SlotFit:
    # a share that is rounded to the dtype errs by its unit, 1 - a rounded beta by half of one
    kept = result.shared[0].with_floor(unit) if len(result.shared) > 1 else None
    entered = result.shared[-1]
    entered = entered.with_floor(2 * unit * abs(entered.value) + unit / 2)
    return SlotFit(kept, entered, decay)


def mixed_share(samples: Sequence[Sample]) -> Estimate | None:
    """The share of the memory in a mix with the gradient by whose sign all elements step (Lion);
    None where nothing tells.

    An element whose memory m and gradient g have unlike signs goes with m where the share is above
    |g| / (|g| + |m|).
    """
    limits: list[Array] = []
    withs: list[NDArray[np.bool_]] = []
    for sample in samples:
        if not sample.earlier:
            return None
        memory = sample.earlier["first"]
        unlike = (memory * sample.gradient < 0) & (sample.change != 0)
        sizes = np.abs(sample.gradient[unlike])
        limits.append(sizes / (sizes + np.abs(memory[unlike])))
        withs.append(np.sign(memory[unlike]) == -np.sign(sample.change[unlike]))
    limit = np.concatenate(limits)
    goes_with = np.concatenate(withs)
    if not goes_with.any() or goes_with.all():
        return None
    low = float(limit[goes_with].max())
    high = float(limit[~goes_with].min())
    return Estimate((low + high) / 2, abs(high - low) / 2)


def settled(decays: Mapping[str, Estimate]) -> dict[str, float]:
    """Parameter -> its weight decay in the gradient, as the sharp tensors give it; empty where none
    has one, NaN where it is not known well enough to compute with.
    """
    sure = [decay for decay in decays.values() if is_unlike(decay)]
    if not sure:
        return {}
    mean = pooled(sure)
    if mean.error > SHARP * abs(mean.value):
        return dict.fromkeys(decays, math.nan)
    settled_decays: dict[str, float] = {}
    for name, decay in decays.items():
        if not is_unlike(decay, mean.value):
            settled_decays[name] = mean.value
        else:
            settled_decays[name] = decay.value if is_unlike(decay) else 0.0
    return settled_decays


def with_decay(sample: Sample, decay: Mapping[str, float]) -> Array:
    """The gradient with the weight decay that is added to it."""
    share = decay.get(sample.name, 0.0)
    return sample.gradient + share * sample.before if share else sample.gradient


def _above_zero(bound: Array) -> Array:
    """Bounds of which none is 0: an element that is exact does not weigh without end."""
    positive = bound[bound > 0]
    least = float(np.median(positive)) * 1e-9 if len(positive) else 1.0
    return np.asarray(np.maximum(bound, least))
