"""The change of the parameters as a sum of directions: how far along each, and how much decay."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockstep.diagnose.local.least_squares import Block, Estimate, Fit, clusters_of, fit
from lockstep.diagnose.local.rules import Memory, Rule
from lockstep.diagnose.local.samples import Sample
from lockstep.oracle.arithmetic import Array

__all__ = ["StepFit", "fit_step"]

FINE = 4.0
"""A step below so many times the rounding of its parameter is lost in it, the same way each time:
such elements are left out."""
ROUNDS = 8
VAST = 100.0
"""A root that is so many times smaller than eps counts for nothing: that is another rule."""
GRID = (0.5, 0.1, 0.02)
"""Steps of the exponent of eps, ever finer."""
FEW = 250
GUESSED = 4
"""Elements of a tensor, and tensors, from which eps is guessed."""


@dataclass(frozen=True)
class StepFit:
    """What a rule's numbers must be for the step that was made.

    Attributes:
        rule: the rule.
        steps: parameter -> the coefficient of each direction.
        decays: parameter -> the share of it that is taken off, apart from the directions.
        eps: as it is added to the root that was recorded; None where the rule has none.
        misfit: sum of squared residuals, each over its standard deviation.
    """

    rule: Rule
    steps: dict[str, list[Estimate]]
    decays: dict[str, Estimate]
    eps: Estimate | None
    misfit: float


def fit_step(samples: Sequence[Sample], rule: Rule, memory: Memory) -> StepFit | None:
    """The numbers of a rule; None where it does not explain the step up to rounding."""
    samples = [_usable(sample, memory) for sample in samples]
    samples = [sample for sample in samples if len(sample.before)]
    if not samples:
        return None
    eps = _guess(samples, rule, memory) if rule.has_eps else 0.0
    kept = [_fine(sample, rule, memory, eps) for sample in samples]
    kept = [sample for sample in kept if len(sample.before)]
    if not kept:
        return None
    result, estimate = _refined(kept, rule, memory, eps)
    if not result.holds:
        return None
    largest = max(float(_roots(sample, rule).max()) for sample in kept) if rule.has_eps else 0.0
    if estimate is not None and estimate.value > VAST * largest ** (2 if rule.eps_in_root else 1):
        return None
    steps = {}
    decays = {}
    for sample, own in zip(kept, result.own):
        steps[sample.name] = own[:-1]
        # 1 - decay is rounded to the dtype, and a parameter times it is rounded once more
        decays[sample.name] = own[-1].with_floor(sample.unit)
    return StepFit(rule, steps, decays, estimate, 3 * result.misfit)


def _refined(
    samples: Sequence[Sample], rule: Rule, memory: Memory, eps: float
) -> tuple[Fit, Estimate | None]:
    """The fit, with eps moved to where it leaves the least (Gauss-Newton)."""
    result = fit([_block(sample, rule, memory, eps, None) for sample in samples])
    if not rule.has_eps:
        return result, None
    lowest = -0.5 * min(_least_root(sample, rule) for sample in samples)
    estimate = Estimate(eps, np.inf)
    for _ in range(ROUNDS):
        blocks = []
        for sample, own in zip(samples, result.own):
            lengths = np.array([length.value for length in own[:-1]])
            blocks.append(_block(sample, rule, memory, eps, lengths))
        # eps is free in this fit, so that the spreads of the steps hold what it leaves open
        result = fit(blocks)
        change = result.shared[0]
        if not np.isfinite(change.spread):
            break
        following = max(eps + change.value, min(lowest, eps / 2) if eps > 0 else lowest)
        estimate = Estimate(float(following), change.spread)
        if abs(following - eps) <= 1e-3 * change.spread:
            break
        eps = following
    return result, estimate


def _block(
    sample: Sample,
    rule: Rule,
    memory: Memory,
    eps: float,
    lengths: Array | None,
    clustered: bool = True,
) -> Block:
    """The elements of a tensor; with the lengths of its steps the derivative by eps is shared."""
    directions, slopes = rule.columns(sample, memory, eps)
    change = sample.change
    own = np.concatenate([-directions, -sample.before[:, None]], axis=1)
    shared = np.zeros((len(change), 0))
    if lengths is not None:
        shared = -(slopes @ lengths)[:, None]
    bound = _bound(sample)
    cluster = clusters_of(change, np.frexp(sample.after)[1]) if clustered else None
    return Block(shared, own, change, bound, cluster)


def _bound(sample: Sample) -> Array:
    """The rounding of the parameter, twice (the decay and the step), and of the step."""
    size = np.maximum(np.abs(sample.before), np.abs(sample.after))
    bound = sample.unit * (2 * size + 8 * np.abs(sample.change)) + 4 * sample.least
    positive = bound[bound > 0]
    least = float(np.median(positive)) * 1e-9 if len(positive) else 1.0
    return np.asarray(np.maximum(bound, least))


def _usable(sample: Sample, memory: Memory) -> Sample:
    """The elements without those whose second moment is below the smallest normal number, of which
    nobody knows the bits.
    """
    usable = np.ones(len(sample.before), dtype=bool)
    for slot, array in sample.moments.items():
        if memory.kind.get(slot) in ("square", "difference"):
            usable &= array > sample.least / sample.units[slot]
            usable |= (array == 0) & (sample.gradient == 0)
    return sample if usable.all() else sample.at(usable)


def _fine(sample: Sample, rule: Rule, memory: Memory, eps: float) -> Sample:
    """The elements whose parameter does not round away the step."""
    directions, _ = rule.columns(sample, memory, eps)
    far = np.abs(directions).max(axis=1)
    grid = sample.unit * np.abs(sample.before)
    usable = np.isfinite(far) & np.isfinite(grid) & np.isfinite(sample.change)
    moving = usable & (far > 0)
    if moving.any():
        relative = np.where(moving, grid / np.where(moving, far, 1.0), np.inf)
        finest = relative <= np.quantile(relative[moving], 0.1)
        length = float(np.median(np.abs(sample.change[finest]) / far[finest]))
        usable &= (far == 0) | (grid * FINE <= length * far)
    return sample if usable.all() else sample.at(usable)


def _guess(samples: Sequence[Sample], rule: Rule, memory: Memory) -> float:
    """eps to within some per cent, or 0."""
    ordered = sorted(samples, key=lambda sample: _least_root(sample, rule))
    few = [_telling(sample, rule) for sample in ordered[:GUESSED]]
    roots = np.concatenate([_roots(sample, rule) for sample in few])
    roots = roots[np.isfinite(roots) & (roots > 0)]
    if not len(roots):
        return 0.0

    def misfit(eps: float) -> float:
        return fit([_block(sample, rule, memory, eps, None, False) for sample in few]).misfit

    power = 2.0 if rule.eps_in_root else 1.0
    low = np.log10(roots.min()) - 2
    high = np.log10(roots.max()) + 2
    best = 0.0
    least = misfit(best)
    grid = np.arange(low, high, GRID[0])
    for step, finer in zip(GRID, (*GRID[1:], 0.0)):
        for exponent in grid:
            eps = float(10 ** (power * exponent))
            left = misfit(eps)
            if left < least * 0.999:
                best, least = eps, left
        if not best:
            break
        grid = np.log10(best) / power + np.arange(-step + finer, step, finer or step)
    return best


def _telling(sample: Sample, rule: Rule) -> Sample:
    """A few elements, half of them those of the smallest roots."""
    if len(sample.before) <= 2 * FEW:
        return sample
    order = np.argsort(_roots(sample, rule))
    return sample.at(np.concatenate([order[:FEW], order[FEW :: len(order) // FEW]]))


def _roots(sample: Sample, rule: Rule) -> Array:
    """What eps is added to."""
    if rule.only_first and "second" not in sample.moments:
        return np.abs(sample.gradient)
    slot = "largest_second" if "largest_second" in sample.moments else "second"
    return np.sqrt(sample.moments[slot])


def _least_root(sample: Sample, rule: Rule) -> float:
    roots = _roots(sample, rule)
    roots = roots[roots > 0]
    least = float(roots.min()) if len(roots) else np.inf
    return least**2 if rule.eps_in_root else least
