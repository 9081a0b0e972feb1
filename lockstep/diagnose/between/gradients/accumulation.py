"""What the gradients of one loop are of the other's."""

from collections.abc import Iterator

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.losses.differences import closest_pair
from lockstep.diagnose.between.losses.gradients import gradient_formulas, gradients_by
from lockstep.diagnose.between.losses.words import text_of
from lockstep.diagnose.between.pair import Arrays, LoopPair
from lockstep.diagnose.causes.tensors import residual

__all__ = ["accumulated_otherwise", "common_gradients", "not_cleared", "opposite"]

EXACT = 100.0
"""Times that a recomputed gradient must be nearer than an explanation need be."""


def common_gradients(pair: LoopPair) -> tuple[Arrays, Arrays]:
    """The gradients of both sides that have one shape: mine, and the other's."""
    mine = pair.mine.tensors("gradients", pair.update)
    other = pair.other.tensors("gradients", pair.update)
    names = [name for name in mine if name in other and mine[name].shape == other[name].shape]
    return {name: mine[name] for name in names}, {name: other[name] for name in names}


def not_cleared(pair: LoopPair) -> Iterator[Explanation]:
    """That a side adds its gradients to those of its own update before."""
    mine, other = pair.mine.name, pair.other.name
    before = pair.mine.tensors("gradients", pair.update - 1)
    others = pair.other.tensors("gradients", pair.update)
    summed = {
        name: array + before[name]
        for name, array in others.items()
        if name in before and before[name].shape == array.shape
    }
    text = (
        f"{mine}'s gradient is {other}'s plus {mine}'s own of the update before: {mine} does not "
        "clear it"
    )
    idea = "gradients that are not cleared"
    yield Explanation("gradient-stale", text, summed, idea, "forgotten-zero-grad", mine)


def opposite(pair: LoopPair) -> Iterator[Explanation]:
    """That all gradients that differ have the other sign."""
    _, other = common_gradients(pair)
    names = pair.differing("gradients")
    negated = {name: -other[name] for name in names if name in other}
    what = "gradients have" if len(names) == len(other) else f"gradients of {_listed(names)} have"
    text = f"{pair.mine.name}'s {what} the other sign than {pair.other.name}'s"
    yield Explanation("gradient-sign", text, negated, "gradients of the other sign")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def accumulated_otherwise(pair: LoopPair) -> Iterator[Explanation]:
    """That the losses whose gradients were taken weigh the places otherwise, by the gradients of
    the last layer, which each side's own outputs and batch give.
    """
    tolerance = pair.tolerance / EXACT
    of_mine = gradient_formulas(pair.mine, pair.update, tolerance)
    of_other = gradient_formulas(pair.other, pair.update, tolerance)
    if of_mine is None or of_other is None or of_mine[0] != of_other[0]:
        return
    layer = of_mine[0]
    sides = closest_pair(pair, of_mine[1], of_other[1], pair.update)
    if sides is None:
        return
    a, b = sides
    words = text_of(a, b, pair.update)
    mine = a if a.name == pair.mine.name else b
    predicted = gradients_by(pair.mine, layer, mine.formula, pair.update)
    text = words.text
    is_part = True
    if words.factor:
        smaller = a.name if words.larger == b.name else b.name
        times = f"{words.factor:.4g}"
        text = f"{words.larger}'s gradients are {times} times {smaller}'s: {text}"
        factor = words.factor if words.larger == pair.mine.name else 1 / words.factor
        recorded, other = common_gradients(pair)
        scaled = {name: factor * array for name, array in other.items()}
        if residual(scaled, recorded) <= pair.tolerance:
            predicted, is_part = scaled, False
    if _have_equal_losses(pair):
        text += "; the losses that are logged are equal"
    yield Explanation(
        words.key, text, predicted, "another formula of the loss", words.page, is_part=is_part
    )


def _have_equal_losses(pair: LoopPair) -> bool:
    """Whether both sides logged the same loss."""
    mine = pair.mine.tensors("loss", pair.update)
    other = pair.other.tensors("loss", pair.update)
    return bool(mine and other) and residual(other, mine) <= pair.tolerance
