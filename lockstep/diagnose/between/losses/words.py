"""Two loss formulas in one sentence: what one side does and the other does not."""

from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.losses.reading import Formula, Scored
from lockstep.diagnose.between.losses.weights import Mask
from lockstep.diagnose.between.pair import LoopSide
from lockstep.numbers import number

__all__ = ["FormulaPair", "Side", "text_of", "whole"]

PAD_PAGE = "padded-batch-in-the-mean"
PARTS_PAGE = "accumulation-sum-or-mean"
ROWS_PAGE = "optax-losses-do-not-reduce"
TWICE_PAGE = "sigmoid-then-log"
NEAR = 1e-5
"""How near a factor must be to a whole number, relative: rounding of float32 leaves less."""
KINDS = {
    "cross-entropy": "takes the cross entropy of its outputs as logits",
    "softmax twice": "puts its outputs through a softmax before a cross entropy that has its own",
    "log-probabilities": "takes its outputs for logarithms of probabilities",
    "probabilities": "takes its outputs for probabilities",
    "raw scores": "takes its outputs for logarithms of probabilities, which they are not: a "
    "log-softmax is missing",
    "cross-entropy of shares": "takes the cross entropy of its outputs as logits",
    "squares": "takes squared errors",
    "half squares": "takes halves of squared errors",
    "absolute errors": "takes absolute errors",
    "Huber": "takes the Huber loss of 1",
    "broadcast squares": "subtracts a row of targets from a column of outputs: each output meets "
    "every target",
    "binary": "takes the binary cross entropy of its outputs as logits",
    "binary, sigmoid twice": "puts its outputs through a sigmoid before a binary cross entropy "
    "that has its own",
    "binary of shares": "takes its outputs for probabilities",
}
KIND_PAGES = {
    "softmax twice": TWICE_PAGE,
    "raw scores": TWICE_PAGE,
    "half squares": "l2-loss-is-half",
    "broadcast squares": "mse-broadcasts-column-and-row",
    "binary, sigmoid twice": TWICE_PAGE,
    "Huber": "huber-delta-or-smooth-l1-beta",
}
AHEAD = (
    "the inputs themselves: the shift by one is missing",
    "the next tokens",
    "the tokens after the next: they are shifted by one twice",
)


class Side(NamedTuple):
    """A side with its formula, and what that gives at the update where the two part."""

    loop: LoopSide
    formula: Formula
    scored: Scored
    declared: list[int]

    @property
    def name(self) -> str:
        """Of the side: "a" or "b"."""
        return self.loop.name

    @property
    def noun(self) -> str:
        """What is counted: rows, labels, places or numbers."""
        places = self.scored.counts.shape[1]
        if self.scored.places.labels is None:
            return "numbers" if places > 1 else "rows"
        if places > 1:
            return "places"
        return "rows" if self.scored.counts.all() else "labels"


class FormulaPair(NamedTuple):
    """The sentence on two formulas, without its beginning.

    `head` is "{of} {factor} times" where one factor holds for all places: the larger side's name
    and the factor; `head` is None where the text stands alone.
    """

    key: str
    text: str
    page: str
    larger: str = ""
    factor: float = 0.0


def whole(factor: float) -> int:
    """The whole number from 2 on that a factor is, or 0."""
    nearest = round(factor) if np.isfinite(factor) else 0
    return nearest if nearest >= 2 and abs(factor - nearest) <= NEAR * nearest else 0


def text_of(a: Side, b: Side, update: int) -> FormulaPair:
    """What tells two formulas apart, in one sentence."""
    one, other = a.formula, b.formula
    if one.target.shift != other.target.shift or one.target.array != other.target.array:
        return _other_labels(a, b, update)
    if one.target.kind != other.target.kind:
        return _other_kind(a, b)
    if one.target.smoothing != other.target.smoothing:
        text = (
            f"label smoothing: {number(one.target.smoothing)} in {a.name}, "
            f"{number(other.target.smoothing)} in {b.name}"
        )
        return FormulaPair("label-smoothing", text, "label-smoothing-over-k-or-k-minus-1")
    if one.target.start != other.target.start:
        text = (
            f"{a.name} takes the labels as counted from {one.target.start}, {b.name} from "
            f"{other.target.start}"
        )
        return FormulaPair("labels-numbered", text, "label-order-as-text")
    if one.mask != other.mask:
        return _other_mask(a, b)
    return _other_reduction(a, b)


def _other_labels(a: Side, b: Side, update: int) -> FormulaPair:
    ahead_a, ahead_b = _ahead(a, update), _ahead(b, update)
    page = "labels-not-shifted"
    if ahead_a is None or ahead_b is None:
        one, other = a.formula.target, b.formula.target
        text = (
            f"{b.name}'s loss takes {other.array} {other.shift} places ahead for its labels, "
            f"{a.name}'s {one.array} {one.shift} places ahead"
        )
        return FormulaPair("labels-shifted", text, page)
    first, second = (b, a) if ahead_b != 1 else (a, b)
    of_first, of_second = (ahead_b, ahead_a) if ahead_b != 1 else (ahead_a, ahead_b)
    text = f"{first.name}'s labels are {AHEAD[of_first]}; {second.name}'s are {AHEAD[of_second]}"
    return FormulaPair("labels-not-shifted", text, page)


def _ahead(side: Side, update: int) -> int | None:
    """How many places the labels are ahead of the tokens that are fed; None where no tokens are."""
    batch = side.loop.tensors("batch", update)
    target = side.formula.target
    labels = batch[target.array]
    for name, array in batch.items():
        if array.dtype.kind not in "iu" or array.ndim != 2 or labels.ndim != 2:
            continue
        if name == target.array and len(batch) > 1 and side.scored.places.tokens is not None:
            continue
        for more in range(3 - target.shift):
            width = min(array.shape[1] - more, labels.shape[1])
            fed, wanted = array[:, more : more + width], labels[:, :width]
            is_label = wanted >= 0
            if width > 1 and is_label.any() and (fed == wanted)[is_label].all():
                return target.shift + more
    return None


def _other_kind(a: Side, b: Side) -> FormulaPair:
    kinds = a.formula.target.kind, b.formula.target.kind
    page = next((KIND_PAGES[kind] for kind in reversed(kinds) if kind in KIND_PAGES), "")
    if set(kinds) == {"squares", "half squares"} and a.formula[2:] == b.formula[2:]:
        half, full = (a, b) if kinds[0] == "half squares" else (b, a)
        text = f"{half.name} takes halves of squared errors, {full.name} whole ones"
        if 2 not in a.declared + b.declared:
            text += f" (or {full.name} adds the means of 2 micro-batches)"
        return FormulaPair("loss-halved", text, page, full.name, 2.0)
    text = f"{b.name} {KINDS[kinds[1]]}; {a.name} {KINDS[kinds[0]]}"
    if a.formula[2:] != b.formula[2:]:
        text += f"; {b.name} {_reduction(b)}, {a.name} {_reduction(a)}"
    return FormulaPair("other-loss", text, page)


def _other_mask(a: Side, b: Side) -> FormulaPair:
    masked, full = (a, b) if a.formula.mask.kind else (b, a)
    if full.formula.mask.kind:
        text = (
            f"{a.name} leaves {_left_out(a.formula.mask)} out of the loss, {b.name} "
            f"{_left_out(b.formula.mask)}"
        )
        return FormulaPair("loss-over-pads", text, PAD_PAGE)
    noun = full.noun
    count = int(full.scored.counts.sum())
    left = _left_out(masked.formula.mask)
    if full.formula.reduction.kind == masked.formula.reduction.kind == "mean":
        what = "no padding" if noun == "places" else "not left out"
        text = (
            f"{full.name}'s mean is over all {count} {noun}, {masked.name}'s over those "
            f"({int(masked.scored.counts.sum())}) that are {what} ({left} left out)"
        )
    else:
        text = (
            f"{full.name} counts all {count} {noun}, {masked.name} leaves {left} out; "
            f"{b.name} {_reduction(b)}, {a.name} {_reduction(a)}"
        )
    return FormulaPair("loss-over-pads", text, PAD_PAGE)


def _left_out(mask: Mask) -> str:
    if mask.kind == "array":
        return f"where {mask.value} is 0"
    if mask.kind == "token":
        return f"places fed token {mask.value}"
    return f"token {mask.value}"


def _other_reduction(a: Side, b: Side) -> FormulaPair:
    kinds = {a.formula.reduction.kind, b.formula.reduction.kind}
    page = ROWS_PAGE
    if "over all places" in kinds:
        page = PAD_PAGE
    elif max(a.formula.reduction.parts, b.formula.reduction.parts) > 1:
        page = PARTS_PAGE
    key = "accumulation-sum" if page == PARTS_PAGE else "loss-reduced"
    factor = _common_factor(a, b)
    small, large = (a, b) if factor is None or factor > 1 else (b, a)
    times = 0.0 if factor is None else max(factor, 1 / factor)
    if whole(times):
        return FormulaPair(key, _why(small, large), page, large.name, float(whole(times)))
    text = f"{b.name} {_reduction(b)}, {a.name} {_reduction(a)}"
    return FormulaPair(key, text, page, large.name if times else "", times)


def _common_factor(a: Side, b: Side) -> float | None:
    """The factor from a's weights to b's; None where it is not one for all rows that count."""
    counting = a.scored.counts.any(axis=1)
    if not np.array_equal(a.scored.counts, b.scored.counts):
        return None
    factors = b.scored.weight[counting] / a.scored.weight[counting]
    middle = float(np.median(factors))
    is_one = np.isfinite(middle) and bool((np.abs(factors - middle) <= 1e-9 * abs(middle)).all())
    return middle if is_one and middle > 0 else None


def _why(small: Side, large: Side) -> str:
    """Why one loss is a whole number of times another."""
    reduction = large.formula.reduction
    count = int(large.scored.counts.sum())
    if reduction.kind == "sum of means":
        is_sure = {reduction.parts, reduction.size} & {*large.declared, *small.declared}
        if is_sure:
            return f"the means of {reduction.parts} micro-batches are added, not averaged"
        return f"summed, not averaged, as the means of {reduction.parts} micro-batches or processes"
    if reduction.kind == "sum" and small.formula.reduction.kind == "mean":
        return f"the sum over {count} {large.noun} for their mean"
    return f"{large.name} {_reduction(large)}, {small.name} {_reduction(small)}"


def _reduction(side: Side) -> str:
    """How a side makes one number of the losses of its places."""
    kind, size, parts = side.formula.reduction
    rows, places = side.scored.counts.shape
    count = int(side.scored.counts.sum())
    return {
        "mean": f"divides the whole sum by all {count} {side.noun}",
        "sum": f"takes the sum over {count} {side.noun}",
        "over rows": f"divides the whole sum by the {rows} rows",
        "over all places": f"divides the whole sum by all {rows * places} places, those that do "
        "not count too",
        "row means": "averages the means of the rows",
        "sum of row means": "adds the means of the rows",
        "mean over parts": f"divides the mean by its {parts} micro-batches once more",
        "mean of sums": f"averages the sums of {parts} micro-batches",
        "mean of means": f"averages the means of {parts} micro-batches",
        "sum of means": f"adds the mean of each micro-batch ({parts} of {size} rows)",
        "last": f"takes the mean of the last micro-batch of {size} rows alone",
        "first": f"takes the mean of the first micro-batch of {size} rows alone",
    }[kind]
