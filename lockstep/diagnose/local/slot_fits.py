"""What an optimizer keeps of its memory, and how much of the gradient enters it: its betas, or its
momentum, and a weight decay that is added to the gradient (L2).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.local.least_squares import Block, Estimate, Fit, fit
from lockstep.diagnose.local.samples import Sample
from lockstep.oracle.arithmetic import Array

__all__ = [
    "SlotFit",
    "fit_difference",
    "fit_mean",
    "fit_square",
    "is_apart",
    "mixed_share",
    "with_decay",
]

SURE = 8.0
"""Standard errors from which on a number is not 0. The errors are of thousands of roundings, so
that one of 10^5 tensors would come near by chance."""


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


def is_apart(estimate: Estimate, other: float = 0.0) -> bool:
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
    if not entered.value:
        return None
    unit = max(sample.units[slot] for sample in samples)
    decay = {}
    for sample, (own,) in zip(samples, result.own):
        share = own.times(1 / entered.value)
        decay[sample.name] = share.with_floor(2 * unit * abs(share.value))
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

    def block(sample: Sample) -> Block:
        gradient = sample.gradient
        own = np.zeros((len(gradient), 0))
        if decay is None:
            both = gradient * sample.before
            own = np.stack([2 * both, sample.before**2], axis=1)
        else:
            gradient = gradient + decay.get(sample.name, 0.0) * sample.before
        return _square_block(sample, slot, gradient**2, own)

    result = fit([block(sample) for sample in samples])
    if not result.holds or result.shared[-1].value <= 0:
        return None
    entered = result.shared[-1].value
    unit = max(sample.units[slot] for sample in samples)
    decays: dict[str, Estimate] = {}
    if decay is None:
        for sample, (both, _) in zip(samples, result.own):
            share = both.times(1 / entered)
            decays[sample.name] = share.with_floor(2 * unit * abs(share.value))
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
    if not result.holds:
        return None
    unit = max(sample.units[slot] for sample in samples)
    return _slot_fit(result._replace(shared=result.shared[1:]), unit, {})


def _square_block(sample: Sample, slot: str, square: Array, own: Array) -> Block:
    target = sample.moments[slot]
    columns = [square]
    assert sample.earlier is not None
    if sample.earlier:
        columns = [sample.earlier[slot], square]
    # below the smallest normal number some libraries keep none of a square
    size = 8 * sample.units[slot] * np.abs(target) + 4 * sample.least
    return Block(np.stack(columns, axis=1), own, target, _above_zero(size))


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


def with_decay(sample: Sample, decay: Mapping[str, float]) -> Array:
    """The gradient with the weight decay that is added to it."""
    share = decay.get(sample.name, 0.0)
    return sample.gradient + share * sample.before if share else sample.gradient


def _above_zero(bound: Array) -> Array:
    """Bounds of which none is 0: an element that is exact does not weigh without end."""
    positive = bound[bound > 0]
    least = float(np.median(positive)) * 1e-9 if len(positive) else 1.0
    return np.asarray(np.maximum(bound, least))
