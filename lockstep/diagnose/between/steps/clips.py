"""What the clipped gradients of one loop are of the other's."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import Arrays, LoopPair, LoopSide
from lockstep.diagnose.between.steps.clip_ways import ClipWay, clip_way
from lockstep.diagnose.between.steps.step_words import named
from lockstep.diagnose.local.difference import likely
from lockstep.diagnose.local.gradient_scale import norm_of
from lockstep.diagnose.units import coarsest_dtype, unit_of_dtype
from lockstep.numbers import number, written

__all__ = ["clause_of", "left_out", "other_clip", "zero_by_zero"]

PAGE = "clip-forgotten"
PAGES = {
    "tensors": "clip-inside-partition",
    "layers": "clip-inside-partition",
    "part": "clip-inside-partition",
}
"""Kind of clip -> the atlas page on it, where it has one of its own."""
SLIGHT = 0.05
"""Relative distance of two factors from which they stand for two bounds, not for two eps."""
ROUNDINGS = 8
"""Roundings, at most, in a factor: of the norm's squares and sum, of its root and the division."""
OF_1024 = (1e-4, 20)
"""How near a ratio of bounds must be to a power of 2, and the largest such power, for a loss scale
to stand between them."""
LEAST_POWER = 5


class ClipClause(NamedTuple):
    """The key of a cause, its text and its page."""

    key: str
    text: str
    page: str


def left_out(pair: LoopPair) -> Iterator[Explanation]:
    """That a side has gradients for some parameters and gives its optimizer none of them."""
    mine = pair.mine.name
    gradients = pair.mine.tensors("gradients", pair.update)
    clipped = pair.mine.tensors("clip", pair.update)
    differing = pair.differing("clip")
    missing = [
        name
        for name in differing
        if not clipped[name].any() and name in gradients and gradients[name].any()
    ]
    if not missing or not any(array.any() for array in clipped.values()):
        return
    what = "has a gradient that its optimizer is" if len(missing) == 1 else "have gradients that"
    what += " not given" if len(missing) == 1 else " its optimizer is not given"
    text = f"{mine} does not train {named(missing)}, which {what}"
    zeros = {name: np.zeros_like(clipped[name]) for name in missing}
    idea = "gradients that the optimizer is not given"
    yield Explanation(
        "not-trained",
        text,
        zeros,
        idea,
        "parameters-not-trained",
        is_part=set(missing) != set(differing),
    )


def zero_by_zero(pair: LoopPair) -> Iterator[Explanation]:
    """That a side's clip divides 0 by 0 where all gradients are 0."""
    mine = pair.mine.name
    clipped = pair.mine.tensors("clip", pair.update)
    gradients = pair.mine.tensors("gradients", pair.update)
    if not clipped or clipped.keys() - gradients.keys() or norm_of(gradients):
        return
    zeros = _zeros(pair, pair.mine, pair.other, pair.update)
    text = f"{mine}'s clip divides 0 by 0: {zeros} at update {pair.update}"
    broken = {name: np.full(array.shape, math.nan) for name, array in clipped.items()}
    idea = "a norm of 0 that is divided by"
    yield Explanation("clip-zero-by-zero", text, broken, idea, "clip-zero-by-zero", mine)


def _zeros(pair: LoopPair, side: LoopSide, other: LoopSide, update: int) -> str:
    """ "the norm and the bound are both 0", or the norm alone where nothing tells the bound."""
    for later in other.trace.header.get("detail", []):
        if later < update:
            continue
        clipped = other.tensors("clip", later)
        if clipped and not norm_of(clipped) and norm_of(other.tensors("gradients", later)):
            return "the norm and the bound are both 0"
    way = None
    for before in range(update):
        way = _way(pair, side, before) or way
    if way is not None and way.factor <= 1:
        return "the norm and the bound are both 0"
    return "the norm is 0"


def other_clip(pair: LoopPair) -> Iterator[Explanation]:
    """That the sides clip in two ways, at two bounds or with two eps."""
    way = _way(pair, pair.mine, pair.update)
    others = _way(pair, pair.other, pair.update)
    if way is None or others is None:
        return
    clause = clause_of(pair, way, others)
    if clause is not None:
        idea = "another way to clip, another bound or another eps"
        later, side = _later_zero(pair)
        yield Explanation(clause.key, clause.text + later, way.predicted, idea, clause.page, side)


def clause_of(pair: LoopPair, way: ClipWay, others: ClipWay) -> ClipClause | None:
    """In what two ways to clip differ; None where that is not told."""
    page = PAGES.get(way.kind) or PAGES.get(others.kind) or PAGE
    ways = {pair.mine.name: way, pair.other.name: others}
    are_slight = abs(way.factor / others.factor - 1) < SLIGHT if others.factor else False
    if way.kind == others.kind == "norm" and are_slight:
        eps = _eps(pair, way, others)
        if eps is None:
            return None
        return ClipClause("clip-eps", _text_of_eps(pair, eps, ways), "clip-grad-norm-eps")
    if way.kind == others.kind == "none":
        return None
    turned = [side for side, one in sorted(ways.items()) if one.factor < 0]
    if turned:
        text = f"{' and '.join(turned)} turns the sign of its gradient before the optimizer has it"
        return ClipClause("gradient-sign", text, "") if len(turned) == 1 else None
    unusual = sorted({way.kind, others.kind} - {"norm", "none"})
    key = f"clip-{unusual[0]}" if unusual else "clip-norm"
    return ClipClause(key, _text(ways), page)


def _way(pair: LoopPair, side: LoopSide, update: int) -> ClipWay | None:
    gradients, clipped = side.tensors("gradients", update), side.tensors("clip", update)
    return clip_way(gradients, clipped, pair.tolerance / 10) if clipped else None


def _text(ways: dict[str, ClipWay]) -> str:
    """ "b does not clip; a's clipped gradient is its own times 0.1 / norm (0.0194)"."""
    free = next((side for side, way in ways.items() if way.kind == "none"), "")
    if not free:
        text = "; ".join(f"{side} {ways[side].words}" for side in sorted(ways))
        return text + _scale_between(ways)
    (side,) = ways.keys() - {free}
    way = ways[side]
    if way.kind != "norm":
        return (
            f"{free} does not clip its gradient of norm {number(way.norm, 4)}; {side} {way.words}"
        )
    bound = number(likely(way.bound, 1e-5 * way.bound), 4)
    if way.factor > 1:
        return f"{side} {way.words} ({number(way.norm, 4)}); {free} does not"
    return (
        f"{free} does not clip its gradient of norm {number(way.norm, 4)}; {side}'s clipped "
        f"gradient is its own times {bound} / norm ({number(way.factor, 3)})"
    )


def _scale_between(ways: dict[str, ClipWay]) -> str:
    """That two bounds are a power of 2 apart: one gradient was clipped with a loss scale in it."""
    bounds = [ways[side].bound for side in sorted(ways)]
    kinds = {way.kind for way in ways.values()}
    if kinds != {"norm"} or not all(bounds):
        return ""
    power = math.log2(bounds[1] / bounds[0])
    nearest = round(power)
    if abs(power - nearest) > OF_1024[0] or not LEAST_POWER <= abs(nearest) <= OF_1024[1]:
        return ""
    side = "b" if nearest < 0 else "a"
    return (
        f", 2^{abs(nearest)} = {2 ** abs(nearest)} times less: as if {side} clipped before it "
        "divides out a loss scale"
    )


# ---- the number that is added to the norm


Pair2 = tuple[float, float]
"""A number of mine and one of the other side."""


def _eps(pair: LoopPair, way: ClipWay, others: ClipWay) -> Pair2 | None:
    """What is added to the norm on either side; None where the digits do not tell."""
    unit = unit_of_dtype(coarsest_dtype(pair.mine.trace))
    unit = max(unit, unit_of_dtype(coarsest_dtype(pair.other.trace)))
    error = ROUNDINGS * unit * way.norm
    gap = way.norm * (others.factor / way.factor - 1)
    if abs(gap) <= error:
        return None
    for bound in _bounds(way.bound, others.bound):
        mine, other = (bound / one.factor - one.norm for one in (way, others))
        if _is_plain(mine, error) and _is_plain(other, error) and min(mine, other) > -error:
            return likely(mine, error), likely(other, error)
    if gap > 0 and _is_plain(gap, error):
        return likely(gap, error), 0.0
    if gap < 0 and _is_plain(-gap, error):
        return 0.0, likely(-gap, error)
    return None


def _bounds(mine: float, other: float) -> Iterator[float]:
    """Bounds with few digits, a little above what both sides scale to."""
    largest = max(mine, other)
    for digits in range(1, 5):
        bound = float(f"{largest:.{digits}g}")
        if 0 <= bound / largest - 1 + 1e-12 < SLIGHT:
            yield bound


def _is_plain(eps: float, error: float) -> bool:
    """Whether a number is 0, or one that somebody writes: of one digit."""
    if abs(eps) <= 3 * error:
        return True
    rounded = float(f"{eps:.1g}")
    return eps > 0 and abs(eps - rounded) <= max(3 * error, 1e-3 * rounded)


def _text_of_eps(pair: LoopPair, eps: Pair2, ways: dict[str, ClipWay]) -> str:
    """ "a divides by the norm + 1e-6, b by the norm (3.2e-7 of it)"."""
    of = dict(zip((pair.mine.name, pair.other.name), eps))
    words = {side: f"the norm + {written(one)}" if one else "the norm" for side, one in of.items()}
    share = abs(eps[0] - eps[1]) / ways[pair.mine.name].norm
    return f"a divides by {words['a']}, b by {words['b']} ({number(share, 2)} of it)"


def _later_zero(pair: LoopPair) -> tuple[str, str]:
    """What follows where a clip without eps meets a norm of 0, and the side that it follows for."""
    for side, other in ((pair.mine, pair.other), (pair.other, pair.mine)):
        for update in side.trace.header.get("detail", []):
            clipped = side.tensors("clip", update) if update > pair.update else {}
            gradients = side.tensors("gradients", update)
            if clipped and _is_broken(clipped) and not norm_of(gradients):
                text = (
                    f"; from update {update} on {side.name} is NaN: {side.name}'s clip divides 0 "
                    f"by 0, {_zeros(pair, side, other, update)} there"
                )
                return text, side.name
    return "", ""


def _is_broken(arrays: Arrays) -> bool:
    return all(np.isnan(array).all() for array in arrays.values())
