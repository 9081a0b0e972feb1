"""Gradients that are a factor of the other loop's, with the reason where numbers give one."""

from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.gradients.accumulation import common_gradients
from lockstep.diagnose.between.losses.weights import declared_counts
from lockstep.diagnose.between.losses.words import PARTS_PAGE, ROWS_PAGE, whole
from lockstep.diagnose.between.pair import Arrays, LoopPair
from lockstep.diagnose.causes.tensors import residual
from lockstep.numbers import factor as factor_text
from lockstep.numbers import number

__all__ = ["clipped_when_recorded", "decayed", "scaled_by_any", "scaled_by_whole"]

COARSE = 1e-3
"""A tolerance above this is of a low precision."""
LEAST_SCALE = 2**6
"""The smallest power of two that is taken for a loss scale: micro-batches are seldom so many."""
MOST_DECAY = 1.0
"""The largest weight decay that anybody sets."""
MANY = 50
"""Elements beside which one fitted number says nothing."""
FEW_AT_BOUND = 3
"""Elements at a bound that show a clipping of values."""
NEAR_NORM = 2e-5
"""How near a norm must be to a plain number, relative; PyTorch's eps of 1e-6 is within it."""
SCALE_PAGE = "loss-scale-not-undone"


def _factor(pair: LoopPair) -> tuple[float, Arrays, Arrays] | None:
    """The factor that fits all gradients that differ best, and these of both sides."""
    mine, other = common_gradients(pair)
    names = [name for name in pair.differing("gradients") if name in other]
    square = sum(float(np.square(other[name]).sum()) for name in names)
    product = sum(float((mine[name] * other[name]).sum()) for name in names)
    if not square or not np.isfinite(product) or product <= 0:
        return None
    of_mine = {name: mine[name] for name in names}
    of_other = {name: other[name] for name in names}
    return product / square, of_mine, of_other


def scaled_by_whole(pair: LoopPair) -> Iterator[Explanation]:
    """That the gradients are a whole number of times the other's."""
    fit = _factor(pair)
    if fit is None:
        return
    factor, _, other = fit
    nearest = max(factor, 1 / factor)
    count = round(nearest) if np.isfinite(nearest) else 0
    if not whole(nearest) or factor < 1:
        return  # the other side is the one that is larger
    predicted = {name: count * array for name, array in other.items()}
    why, page = _reason(pair, count, len(other))
    what = _what(pair, list(other))
    text = f"{pair.mine.name}'s {what} {count} times {pair.other.name}'s: {why}"
    yield Explanation("gradient-scaled", text, predicted, "a factor on the gradients", page)


def _what(pair: LoopPair, names: list[str]) -> str:
    mine, _ = common_gradients(pair)
    moving = [name for name in mine if mine[name].any()]
    is_coarse = pair.tolerance > COARSE  # equal tensors may hide a factor there
    if len(names) >= len(moving) or (is_coarse and 2 * len(names) > len(moving)):
        return "gradients are"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"gradients of {', '.join(names[:3])}{more} are"


def _reason(pair: LoopPair, count: int, tensors: int) -> tuple[str, str]:
    """Why gradients are a whole number of times the other's, and the page on it."""
    declared = declared_counts(pair.mine.settings) + declared_counts(pair.other.settings)
    power = count.bit_length() - 1
    is_power = count == 2**power
    is_same = _is_same_step(pair)
    if is_same and is_power and count >= LEAST_SCALE:
        why = (
            f"a loss scale (2 to the {_ordinal(power)}) that was not divided out when they were "
            "recorded; the step is equal"
        )
        return why, SCALE_PAGE
    if is_same:
        return "they were recorded before they were divided; the step is equal", PARTS_PAGE
    if count in declared:
        return f"the means of {count} micro-batches are added, not averaged", PARTS_PAGE
    rows = _rows(pair)
    if count == rows:
        return f"the gradient of the sum over {count} rows for that of their mean", ROWS_PAGE
    if is_power and count >= LEAST_SCALE:
        why = f"a loss scale (2 to the {_ordinal(power)}) that is not divided out before the step"
        return why, SCALE_PAGE
    if count == 2 and not _has_labels(pair):
        return (
            "summed, not averaged, as over 2 micro-batches or processes; or the gradient of whole "
            "squares for halves",
            PARTS_PAGE,
        )
    return f"summed, not averaged, as over {count} micro-batches or processes", PARTS_PAGE


def _has_labels(pair: LoopPair) -> bool:
    """Whether the batch holds whole numbers, so that the loss is hardly one of squares."""
    batch = pair.mine.tensors("batch", pair.update)
    return any(array.dtype.kind in "iu" for array in batch.values())


def _ordinal(power: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    end = "th" if 10 < power % 100 < 14 else ends.get(power % 10, "th")
    return f"{power}{end}"


def _rows(pair: LoopPair) -> int:
    """The rows of the batch; 0 where none were recorded."""
    arrays = list(pair.mine.tensors("batch", pair.update).values())
    arrays += list(pair.mine.tensors("forward", pair.update).values())
    return next((len(array) for array in arrays if array.ndim), 0)


def _is_same_step(pair: LoopPair) -> bool:
    """Whether what came after the gradients is equal: what the optimizer was given or keeps, where
    that was recorded, and the change of the parameters.
    """
    for stage in ("clip", "moments"):
        names = pair.mine.tensors(stage, pair.update).keys()
        if names & pair.other.tensors(stage, pair.update).keys() and pair.differing(stage):
            return False
    changes = pair.mine.tensors("parameters", pair.update)
    others = pair.other.tensors("parameters", pair.update)
    if not changes or not others or not any(array.any() for array in changes.values()):
        return False
    return residual(others, changes) <= pair.tolerance


def clipped_when_recorded(pair: LoopPair) -> Iterator[Explanation]:
    """That gradients were recorded after they were clipped, by norm or by value."""
    mine, other = common_gradients(pair)
    fit = _factor(pair)
    names = pair.differing("gradients")
    if fit is None or not names:
        return
    factor, _, _ = fit
    norm = _norm(mine)
    bound = _plain(norm, NEAR_NORM)
    before = _norm(other)
    page = "clip-grad-norm-eps"
    if bound and factor < 1 and before > bound and _keeps_norm(pair, bound):
        predicted = {name: norm / before * array for name, array in other.items()}
        text = (
            f"{pair.mine.name}'s gradients are {pair.other.name}'s clipped to a norm of "
            f"{number(bound)}: {pair.mine.name} records, or takes, them after clipping"
        )
        yield Explanation("gradient-clipped", text, predicted, "clipped gradients", page)
    largest = max(float(np.abs(array).max(initial=0)) for array in mine.values())
    at_bound = sum(int((np.abs(array) == largest).sum()) for array in mine.values())
    if at_bound >= FEW_AT_BOUND:
        predicted = {name: np.clip(array, -largest, largest) for name, array in other.items()}
        text = (
            f"{pair.mine.name}'s gradients are {pair.other.name}'s with each value clipped to "
            f"{number(largest)}"
        )
        yield Explanation("gradient-clipped", text, predicted, "clipped gradients")


def _norm(arrays: Arrays) -> float:
    return float(np.sqrt(sum(float(np.square(array).sum()) for array in arrays.values())))


def _plain(value: float, near: float) -> float:
    """The number with one or two digits that a value is, or 0."""
    if not np.isfinite(value) or value <= 0:
        return 0.0
    plain = float(f"{value:.2g}")
    return plain if abs(plain - value) <= near * plain else 0.0


def _keeps_norm(pair: LoopPair, bound: float) -> bool:
    """Whether the norm is at the bound at another recorded update too, and never above it; True
    where only this one was recorded.
    """
    updates = [int(update) for update in pair.mine.trace.header.get("detail", [])]
    norms = [
        _norm(pair.mine.tensors("gradients", update)) for update in updates if update > pair.update
    ]
    limit = bound * (1 + NEAR_NORM)
    return all(norm <= limit for norm in norms) and (
        not norms or any(norm >= bound * (1 - NEAR_NORM) for norm in norms)
    )


def scaled_by_any(pair: LoopPair) -> Iterator[Explanation]:
    """That one factor makes all gradients that differ out of the other's."""
    fit = _factor(pair)
    if fit is None or fit[0] < 1:  # said of the side that is larger
        return
    if any(True for _ in clipped_when_recorded(pair.swapped)):  # the smaller side's reason
        return
    factor, _, other = fit
    what = _what(pair, list(other))
    predicted = {name: factor * array for name, array in other.items()}
    text = f"{pair.mine.name}'s {what} {factor_text(factor)} times {pair.other.name}'s"
    elements = sum(array.size for array in predicted.values())
    # one number beside so many tells as much as none, if it holds for all gradients
    is_sure = what == "gradients are" and len(other) > 1 and elements >= MANY
    free = 0 if is_sure else 1
    idea = "a factor on the gradients"
    yield Explanation("gradient-scaled", text, predicted, idea, "", free=free)


def decayed(pair: LoopPair) -> Iterator[Explanation]:
    """That a side has its weight decay in the gradient already."""
    mine, other = common_gradients(pair)
    names = [name for name in pair.differing("gradients") if name in other]
    parameters = pair.mine.parameters(pair.update)
    if not names or not all(name in parameters for name in names):
        return
    square = sum(float(np.square(parameters[name]).sum()) for name in names)
    product = sum(float((parameters[name] * (mine[name] - other[name])).sum()) for name in names)
    decay = product / square if square else 0.0
    if not 0 < decay <= MOST_DECAY:
        return
    predicted = {name: other[name] + decay * parameters[name] for name in names}
    text = (
        f"{pair.mine.name}'s gradient holds a weight decay of {number(decay)} times the parameter, "
        f"{pair.other.name}'s does not"
    )
    page = "l2-is-not-decoupled-decay"
    yield Explanation(
        "l2-in-gradient", text, predicted, "a weight decay in the gradients", page, free=1
    )
