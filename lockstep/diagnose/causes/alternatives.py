"""How a cause is tested: an alternative must give the recorded numbers where the recipe as it is
does not.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.causes.tensors import FLOOR, NO_NOISE, Tensors, residual, scales
from lockstep.numbers import factor, number_beside
from lockstep.oracle.arithmetic import Array

__all__ = [
    "BETTER",
    "TOLERANCE",
    "Alternative",
    "Cause",
    "choose",
    "fit",
    "fitted",
]

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2}
"""Largest relative error of an explanation, by the precision of what was recorded. A stage
recomputed from a side's own inputs strays by some 1e-14 in float64 and 1e-6 in float32; the mildest
known faults change it by 1e-8 and 1e-3."""

BETTER = 100.0
"""An explanation must come so many times nearer than the recipe as it is. One free number, fitted
to ten or more that have nothing to do with it, brings them nearer by a few per cent, not by a
hundred times. A side that is nearer to the recipe than the tolerance over this is taken to follow
it."""

ALIKE = 10.0
"""Explanations whose residuals lie within this factor explain equally: the simplest, which comes
first, is named.
"""

FEWEST = 4  # numbers that a fit needs: fewer can be met by chance

MOST_SECANTS = 40


@dataclass(frozen=True)
class Cause:
    """What explains the numbers.

    `text` is one sentence for the user; `page` is the stem of an atlas page, or "". `side` is who
    is off, "a" or "b", or "" where only the relation of the two is known. `residual` is the
    relative error of the alternative against the recorded numbers, `null_residual` that of the
    recipe as it is, or of the other side. `evidence` stands in their place where a setting was
    measured on both sides. `update` (counted from 0, -1 before training), `stage` and `tensor`
    are where it shows first, "" and -1 where that is the first divergence. `runner_up` is the next
    best explanation of another kind, "" where none holds, and `runner_up_residual` what it leaves;
    `is_open` says that it explains the numbers as well.
    `lines` has a side's lines of source that it is about, where they are known. `predicted` is what
    the cause gives in place of a side's tensors at the first divergence, by names such as
    "b|lin.weight".
    """

    key: str
    text: str
    page: str
    side: str
    residual: float
    null_residual: float
    evidence: str = ""
    stage: str = ""
    update: int = -1
    tensor: str = ""
    runner_up: str = ""
    runner_up_residual: float = np.inf
    is_open: bool = False
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    predicted: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)


class Alternative(NamedTuple):
    """Another way to do what the recipe asks for, and the tensors that it gives. "{side}" in the
    text stands for who is off.

    Of those that explain equally one of a lower rank is named: 0 says just what was done, 1 says
    little (other rows, another optimizer), 2 has a number that was fitted.
    """

    key: str
    text: str
    page: str
    tensors: Tensors
    rank: int = 0


class _Explanation(NamedTuple):
    """An alternative that holds: its residual, and that of the recipe as it is."""

    residual: float
    null_residual: float
    alternative: Alternative


def choose(
    recorded: Tensors,
    null: Tensors,
    alternatives: Iterable[Alternative],
    tolerance: float,
    side: str,
    noise: Mapping[str, float] = NO_NOISE,
) -> Cause | None:
    """The simplest alternative that explains what a side recorded; None where none does.

    Args:
        recorded: what the side recorded of the stage.
        null: what the recipe as it is gives.
        alternatives: by rank, and within a rank the simplest first.
        tolerance: the largest residual of an explanation.
        side: who is off, for the text.
        noise: as for `residual`.
    """
    held: list[_Explanation] = []
    enough = tolerance * FLOOR  # no explanation is nearer than rounding lets it be
    for alternative in alternatives:
        simpler = [entry for entry in held if entry.alternative.rank < alternative.rank]
        if any(entry.residual <= enough for entry in simpler):
            break
        names = recorded.keys() & alternative.tensors.keys()
        # the recipe cannot explain what it does not even make, such as a moment that was recorded
        without = np.inf
        if names <= null.keys():
            without = residual(null, {name: recorded[name] for name in names}, noise)
        error = residual(alternative.tensors, recorded, noise)
        if error <= tolerance and max(error * BETTER, tolerance / BETTER) < without:
            held.append(_Explanation(error, without, alternative))
    if not held:
        return None
    best = min(entry.residual for entry in held)
    alike = [entry for entry in held if entry.residual <= max(best * ALIKE, enough)]
    lowest = min(entry.alternative.rank for entry in alike)
    simplest = [entry for entry in alike if entry.alternative.rank == lowest]
    texts = dict.fromkeys(entry.alternative.text for entry in simplest)
    text = "; it could as well be: ".join(list(texts)[:3]).replace("{side}", side)
    error, without, first = simplest[0]
    return Cause(first.key, text, first.page, side, error, without)


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
    """The alternative with the number that fits best; none where no number fits.

    Args:
        key: of the cause.
        text: of the cause; "{value}" in it stands for the number, in digits that tell it from the
            start.
        page: of the cause.
        make: the tensors for a number; None where there are none.
        recorded: what they are to come near.
        start: the number to begin from: 1 for a factor, else what the recipe says.
        span: the least and the largest number.
        log: begin with the best power of ten within the span.
    """
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

    Gauss-Newton with secants: exact after one step where the tensors are linear in the number. The
    arguments are those of `fitted`.
    """
    low, high = span

    def errors(value: float) -> Array | None:
        return _errors(make(value), recorded)

    def size(value: float) -> float:
        vector = errors(value)
        return np.inf if vector is None else float(np.linalg.norm(vector))

    if log:
        exponents = range(int(np.log10(low)), int(np.log10(high)) + 1)
        start = min((10.0**exponent for exponent in exponents), key=size)
    step = (abs(start) or 1.0) * 1e-2
    following = start + step if start + step <= high else start - step
    best = start
    least = size(start)
    for _ in range(MOST_SECANTS):
        before = errors(start)
        after = errors(following)
        if before is None or after is None or following == start:
            break
        reached = float(np.linalg.norm(after))
        if reached < least:
            best = following
            least = reached
        slope = (after - before) / (following - start)
        steepness = float(slope @ slope)
        if steepness == 0:
            break
        target = float(np.clip(following - float(slope @ after) / steepness, low, high))
        if abs(target - following) <= 1e-13 * abs(target):
            break
        start, following = following, target
    return best if np.isfinite(least) else None


def _errors(tensors: Tensors | None, recorded: Tensors) -> Array | None:
    """The relative errors of all elements, in one vector; None where too few can be compared."""
    if not tensors:
        return None
    names = sorted(recorded.keys() & tensors.keys())
    sizes = scales(recorded, {})
    parts = []
    with np.errstate(all="ignore"):
        for name in names:
            if tensors[name].shape != recorded[name].shape:
                return None
            error = (tensors[name] - recorded[name]) / (sizes[name] or 1.0)
            parts.append(error.ravel())
    vector = np.concatenate(parts) if parts else np.zeros(0)
    return vector if len(vector) >= FEWEST and np.isfinite(vector).all() else None
