"""How a cause is tested: an alternative must give the recorded numbers where the recipe as it is
does not.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from lockstep.numbers import factor, number_beside
from lockstep.oracle.arithmetic import Array

__all__ = [
    "BETTER",
    "TOLERANCE",
    "Alternative",
    "Cause",
    "Tensors",
    "choose",
    "fit",
    "fitted",
    "residual",
]

Tensors = dict[str, Array]
"""family/name -> float64 array: "gradients/linear1.weight", "moments/first/linear1.weight",
"loss/mean".
"""

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2}
"""Largest relative error of an explanation, by the precision of what was recorded. A stage
recomputed from a side's
own inputs strays by some 1e-14 in float64 and 1e-6 in float32; the mildest known faults change it
by 1e-8 and 1e-3."""

BETTER = 100.0
"""So many times nearer than the recipe as it is an explanation must come: one free number fitted to
ten or more that have nothing to do with it brings them nearer by a few per cent, not by a hundred
times. A side that is nearer to the recipe than the tolerance over this is taken to follow it."""

ALIKE = 10.0
"""Explanations whose residuals lie within this factor explain equally: the simplest, which comes
first, is named.
"""

FLOOR = 1e-3
"""A tensor smaller than this share of the largest of its family is judged against that share: of a
bias in front of a batch normalisation the gradient is rounding and nothing else."""

FEWEST = 4  # numbers that a fit needs: fewer can be met by chance


@dataclass(frozen=True)
class Cause:
    """What explains the numbers.

    `text` is one sentence for the user, `page` the stem of an atlas page or "". `side` is "a" or
    "b", who is off, or
    "" where only the relation of the two is known. `residual` is the relative error of the
    alternative against the recorded numbers, `null_residual` that of the recipe as it is.
    """

    key: str
    text: str
    page: str
    side: str
    residual: float
    null_residual: float


class Alternative(NamedTuple):
    """Another way to do what the recipe asks for, and what it gives; "{side}" in the text stands
    for who is off.

    Of those that explain equally one of a lower rank is named: 0 says just what was done, 1 says
    little (other rows, another optimizer), 2 has a number that was fitted.
    """

    key: str
    text: str
    page: str
    tensors: Tensors
    rank: int = 0


def residual(
    found: Tensors, recorded: Tensors, noise: Mapping[str, float] = MappingProxyType({})
) -> float:
    """The largest relative error, in the 2-norm, of a tensor that both have; infinite where there
    is none.

    `noise` is the 2-norm of what storing a tensor may have done to it: so much of an error does not
    count.
    """
    names = found.keys() & recorded.keys()
    scales = _scales({name: recorded[name] for name in names}, found)
    worst = 0.0 if names else np.inf
    for name in names:
        if found[name].shape != recorded[name].shape:
            return np.inf
        same = (found[name] == recorded[name]) | (np.isnan(found[name]) & np.isnan(recorded[name]))
        with np.errstate(all="ignore"):
            gap = float(np.linalg.norm(np.where(same, 0.0, found[name] - recorded[name])))
        if not np.isfinite(gap):
            return np.inf
        gap = max(gap - noise.get(name, 0.0), 0.0)
        worst = max(worst, gap / scales[name] if gap else 0.0)
    return worst


def choose(
    recorded: Tensors,
    null: Tensors,
    alternatives: Iterable[Alternative],
    tolerance: float,
    side: str,
    noise: Mapping[str, float] = MappingProxyType({}),
) -> Cause | None:
    """The simplest alternative that explains what a side recorded; None where none does.

    Alternatives come by rank, and within one the simplest first.
    """
    held: list[tuple[float, float, Alternative]] = []
    enough = tolerance * FLOOR  # no explanation is nearer than rounding lets it be
    for alternative in alternatives:
        if any(found <= enough and alternative.rank > other.rank for found, _, other in held):
            break
        names = recorded.keys() & alternative.tensors.keys()
        # what the recipe does not even make, as a moment that was recorded, it cannot explain
        made = names <= null.keys()
        without = (
            residual(null, {name: recorded[name] for name in names}, noise) if made else np.inf
        )
        found = residual(alternative.tensors, recorded, noise)
        if found <= tolerance and max(found * BETTER, tolerance / BETTER) < without:
            held.append((found, without, alternative))
    if not held:
        return None
    best = max(min(found for found, *_ in held) * ALIKE, enough)
    alike = sorted((entry for entry in held if entry[0] <= best), key=lambda entry: entry[2].rank)
    found, without, first = alike[0]
    texts = dict.fromkeys(entry[2].text for entry in alike if entry[2].rank == first.rank)
    text = "; it could as well be: ".join(list(texts)[:3])
    return Cause(first.key, text.replace("{side}", side), first.page, side, found, without)


def fitted(
    key: str,
    text: str,
    page: str,
    make: Callable[[float], Tensors | None],
    recorded: Tensors,
    start: float,
    span: tuple[float, float],
    *,
    log: bool = False,
) -> Iterator[Alternative]:
    """The alternative with the number that fits best, "{value}" in the text, in digits that tell it
    from the start; none where no number fits."""
    value = fit(make, recorded, start, span, log=log)
    tensors = None if value is None else make(value)
    if value is not None and tensors is not None:
        number = factor(value) if start == 1 else number_beside(value, start)
        yield Alternative(key, text.replace("{value}", number), page, tensors, rank=2)


def fit(
    make: Callable[[float], Tensors | None],
    recorded: Tensors,
    start: float,
    span: tuple[float, float],
    *,
    log: bool = False,
) -> float | None:
    """The number for which `make` comes nearest to what was recorded, by least squares.

    Gauss-Newton with secants: exact after one step where the tensors are linear in the number.
    `log` begins with the best power of ten within the span.
    """
    low, high = span

    def errors(value: float) -> Array | None:
        tensors = make(value)
        names = sorted(recorded.keys() & (tensors or {}).keys())
        if not tensors or any(tensors[name].shape != recorded[name].shape for name in names):
            return None
        scales = _scales(recorded, {})
        with np.errstate(all="ignore"):
            parts = [
                ((tensors[name] - recorded[name]) / (scales[name] or 1.0)).ravel() for name in names
            ]
        vector = np.concatenate(parts) if parts else np.zeros(0)
        return vector if len(vector) >= FEWEST and np.isfinite(vector).all() else None

    def size(value: float) -> float:
        found = errors(value)
        return np.inf if found is None else float(np.linalg.norm(found))

    if log:
        start = min(
            (10.0**power for power in range(int(np.log10(low)), int(np.log10(high)) + 1)), key=size
        )
    step = (abs(start) or 1.0) * 1e-2
    following = start + step if start + step <= high else start - step
    best, least = start, size(start)
    for _ in range(40):
        before, after = errors(start), errors(following)
        if before is None or after is None or following == start:
            break
        reached = float(np.linalg.norm(after))
        if reached < least:
            best, least = following, reached
        slope = (after - before) / (following - start)
        steepness = float(slope @ slope)
        if steepness == 0:
            break
        target = float(np.clip(following - float(slope @ after) / steepness, low, high))
        if abs(target - following) <= 1e-13 * abs(target):
            break
        start, following = following, target
    return best if np.isfinite(least) else None


def _scales(recorded: Tensors, found: Tensors) -> dict[str, float]:
    """The 2-norm of each tensor's finite values, on either side, and no less than `FLOOR` of its
    family's largest.
    """
    sizes, largest = {}, dict[str, float]()
    for name, array in recorded.items():
        both = [array[np.isfinite(array)]] + (
            [found[name][np.isfinite(found[name])]] if name in found else []
        )
        sizes[name] = max(float(np.linalg.norm(values)) for values in both)
        family = name.rpartition("/")[0]
        largest[family] = max(largest.get(family, 0.0), sizes[name])
    return {
        name: max(size, FLOOR * largest[name.rpartition("/")[0]]) for name, size in sizes.items()
    }
