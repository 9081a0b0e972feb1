"""What one loop's loss is of the other's, from both sides' own outputs and batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.losses.penalty import penalised
from lockstep.diagnose.between.losses.reading import Formula, formulas_of, score
from lockstep.diagnose.between.losses.weights import declared_counts
from lockstep.diagnose.between.losses.words import (
    PARTS_PAGE,
    ROWS_PAGE,
    FormulaPair,
    Side,
    text_of,
    whole,
)
from lockstep.diagnose.between.pair import Arrays, LoopPair
from lockstep.diagnose.causes.tensors import residual
from lockstep.numbers import factor as factor_text
from lockstep.numbers import number

__all__ = ["closest_pair", "losses_differ"]

COSTS = {
    "mean": 0,
    "sum": 1,
    "over rows": 1,
    "over all places": 1,
    "row means": 2,
    "sum of row means": 2,
    "sum of means": 2,
    "mean of means": 2,
    "last": 3,
    "first": 3,
    "mean over parts": 3,
    "mean of sums": 4,
}
"""Reduction -> how far-fetched it is."""
ASPECT = 10
"""The cost of each thing in which two formulas differ."""


def losses_differ(pair: LoopPair) -> Iterator[Explanation]:
    """That the two compute their losses by other formulas; or, where the formulas are not known,
    that one factor lies between them.
    """
    explanation = _computed_otherwise(pair)
    if explanation is None:
        explanation = penalised(pair)
    if explanation is None:
        explanation = _scaled(pair)
    if explanation is not None:
        yield explanation


def _computed_otherwise(pair: LoopPair) -> Explanation | None:
    """That the two compute their losses by other formulas, each of which gives what its side
    recorded.
    """
    sides = closest_pair(pair, formulas_of(pair.mine), formulas_of(pair.other), pair.update)
    if sides is None:
        return None
    a, b = sides
    words = text_of(a, b, pair.update)
    mine = a if a.name == pair.mine.name else b
    other = b if mine is a else a
    times = mine.scored.value / other.scored.value if other.scored.value else np.nan
    gradients = _gradients_beside(pair, times)
    predicted = {"loss": np.array(mine.scored.value)}
    return Explanation(
        words.key,
        _sentence(words, gradients, a.name, b.name),
        predicted,
        "another formula of the loss",
        words.page,
        also=gradients.also,
    )


@dataclass(frozen=True)
class _Gradients:
    """What the gradients are beside two losses of which one is `times` the other."""

    kind: str
    """"equal", "scaled" by the same factor, "other", or "" where none were recorded."""
    also: dict[str, Arrays]


def _gradients_beside(pair: LoopPair, times: float) -> _Gradients:
    """Whether the gradients of the update are equal, or scaled as the loss is."""
    mine = pair.mine.tensors("gradients", pair.update)
    other = pair.other.tensors("gradients", pair.update)
    names = [name for name in mine if name in other and mine[name].shape == other[name].shape]
    if not names:
        norms = [side.series("grad_norm", pair.update) for side in (pair.mine, pair.other)]
        if norms[0] is None or not norms[1]:
            return _Gradients("", {})
        mine, other = ({"grad_norm": np.array(norm)} for norm in norms)
        names = ["grad_norm"]
    of_mine = {name: mine[name] for name in names}
    if residual({name: other[name] for name in names}, of_mine) <= pair.tolerance:
        return _Gradients("equal", {})
    scaled = {name: times * other[name] for name in names}
    if residual(scaled, of_mine) <= pair.tolerance:
        return _Gradients("scaled", {} if names == ["grad_norm"] else {"gradients": scaled})
    return _Gradients("other", {})


def _sentence(words: FormulaPair, gradients: _Gradients, a: str, b: str) -> str:
    """The sentence with what is scaled, and what the gradients say."""
    text = words.text
    if words.factor:
        small = a if words.larger == b else b
        what = "loss and gradients are" if gradients.kind == "scaled" else "loss is"
        times = factor_text(words.factor)
        text = f"{words.larger}'s {what} {times} times {small}'s: {text}"
    return f"{text}; gradients are equal" if gradients.kind == "equal" else text


def closest_pair(
    pair: LoopPair, mine: Sequence[Formula], other: Sequence[Formula], update: int
) -> tuple[Side, Side] | None:
    """The two formulas, of a and of b, that differ in the fewest things; None where one holds for
    both or a side has none.
    """
    if not mine or not other or set(mine) & set(other):
        return None
    declared = {side.name: declared_counts(side.settings) for side in (pair.mine, pair.other)}
    known = declared[pair.mine.name] + declared[pair.other.name]
    best = min(
        ((one, two) for one in mine for two in other),
        key=lambda both: _cost(both[0], both[1], known),
    )
    sides = []
    for loop, formula in zip((pair.mine, pair.other), best):
        scored = score(loop, formula, update)
        if scored is None:
            return None
        sides.append(Side(loop, formula, scored, declared[loop.name]))
    first, second = sorted(sides, key=lambda side: side.name)
    return first, second


def _cost(one: Formula, other: Formula, declared: Sequence[int]) -> int:
    """How much two formulas differ, and how far-fetched they are."""
    differing = 0
    for here, there in zip((*one.target, *one[2:]), (*other.target, *other[2:])):
        differing += here != there
    differing += one.layer != other.layer
    cost = ASPECT * differing
    for formula in (one, other):
        reduction = formula.reduction
        is_declared = {reduction.parts, reduction.size} & set(declared)
        cost += 0 if is_declared else COSTS[reduction.kind]
        cost += formula.target.kind not in ("cross-entropy", "squares")
        cost += formula.mask.kind == "token"
    return cost


def _scaled(pair: LoopPair) -> Explanation | None:
    """That one loss is a number of times the other, and so is every gradient; or the loss alone a
    whole number of times.
    """
    mine = pair.mine.series("loss", pair.update)
    other = pair.other.series("loss", pair.update)
    if not mine or not other or not np.isfinite(mine / other):
        return None
    times = mine / other
    gradients = _gradients_beside(pair, times)
    count = whole(max(times, 1 / times)) if times > 0 else 0
    if gradients.kind not in ("equal", "scaled") or (gradients.kind == "equal" and not count):
        return None
    larger, smaller = pair.mine, pair.other
    if abs(times) < 1:
        larger, smaller = smaller, larger
    what = "loss and gradients are" if gradients.kind == "scaled" else "loss is"
    text, page = "", ""
    if count:
        why, page = _reason(pair, count)
        text = f"{larger.name}'s {what} {count} times {smaller.name}'s: {why}"
    else:
        value = factor_text(times) if abs(times) > 1 else factor_text(1 / times)
        text = f"{larger.name}'s {what} {value} times {smaller.name}'s"
    if gradients.kind == "equal":
        text += "; gradients are equal"
    predicted = {"loss": np.array((times if not count else _exact(times, count)) * other)}
    return Explanation(
        "loss-scaled",
        text,
        predicted,
        "one factor on loss and gradients",
        page,
        also=gradients.also,
    )


def _exact(times: float, count: int) -> float:
    return float(count) if times > 1 else 1 / count


def _reason(pair: LoopPair, count: int) -> tuple[str, str]:
    """Why a loss is a whole number of times another, as far as the counts of the loop tell."""
    declared = declared_counts(pair.mine.settings) + declared_counts(pair.other.settings)
    if count in declared:
        return f"the means of {count} micro-batches are added, not averaged", PARTS_PAGE
    outputs = pair.mine.tensors("forward", pair.update)
    layers = [layer for layer in pair.mine.layers if layer in outputs]
    shape = outputs[layers[-1]].shape if layers else ()
    if shape and count == shape[0]:
        return f"the sum over {count} rows for their mean", ROWS_PAGE
    if len(shape) > 1 and count == int(np.prod(shape[:2])):
        return f"the sum over {count} places for their mean", ROWS_PAGE
    if count == 2:
        why = "summed, not averaged, as the means of 2 micro-batches; or halves of squares"
        return why, PARTS_PAGE
    why = f"summed, not averaged, as the means of {number(count)} micro-batches or processes"
    return why, PARTS_PAGE
