"""Scores and probabilities of an attention that are tensors of their own: their scale, mask, bias,
and the axis of the softmax.

Scores are s q k^T + bias, masked. s is measured by least squares over what is not masked, the bias
from what is left in each head at each distance of places. Of probabilities the logarithm is used:
it is the scores less a number for each row.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.heads import as_heads
from lockstep.diagnose.between.layers.masks import is_unknown, mask_words, masks
from lockstep.diagnose.between.layers.places import Place, contrast_of, gap
from lockstep.diagnose.between.layers.ways import Topic, Way, Words, told_apart
from lockstep.diagnose.between.pair import LoopPair
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array

__all__ = ["NO_BIAS", "TOPICS", "is_masked", "repeated", "scale_words", "scores", "softmax"]

TOPICS = {
    "scale": Topic("attention-scale", "attention-scale"),
    "mask": Topic("attention-mask", "attention-mask-true"),
    "masked": Topic("attention-mask-value", "attention-mask-true"),
    "split": Topic("attention-heads-layout", "attention-heads-layout"),
    "groups": Topic("attention-groups", "query-groups-are-neighbours"),
    "bias": Topic("attention-bias", "attention-scale"),
    "axis": Topic("softmax-axis", "softmax-over-which-axis"),
    "shared": Topic("attention-groups", "query-groups-are-neighbours"),
}
MASKED = -5e3
"""A score below this, or one that is not finite, is masked."""
NEAREST = 14
"""Arrays before the scores that may be queries or keys."""
ROUND = 2e-4
"""Relative distance from a whole number within which the scale names it."""
UNDERFLOW = 0.1
"""Share of the places that a softmax may leave at 0 though no mask does."""
MOST_WHOLE = 10**6
EXACT = 1e-4
NO_BIAS = Words("adds", "no bias")


class _Fit(NamedTuple):
    """Scores as s q k^T + bias of the head and distance, and what is left, relative."""

    scale: float
    bias: Array
    residual: float


def scores(pair: LoopPair) -> Iterator[Explanation]:
    """That two attentions scale, mask or shift their scores otherwise, or norm other axes."""
    place = contrast_of(pair)
    if place is None or place.mine.ndim != 4:
        return
    for ways in (_ways_of_softmax, _ways):
        explanation = told_apart(pair, place, TOPICS, ways(place), "another attention")
        if explanation is not None:
            yield explanation
            return


def _ways(place: Place) -> Iterator[Way]:
    """The scores, or probabilities, that products of two inputs give."""
    axes = {_softmax_axis(target) for target in place.targets}
    if len(axes) > 1:
        return
    (axis,) = axes
    examples, heads, length, width = place.mine.shape
    arrays = dict(list(place.floats() if not place.known else _all_floats(place))[:NEAREST])
    for q_name, q_array in arrays.items():
        for k_name, k_array in arrays.items():
            if not _are_roles(q_name, k_name, tuple(arrays)):
                continue
            for words, q in as_heads(q_array, (examples, heads, length)):
                for groups, k in _keys(k_array, words, (examples, heads, width)):
                    if q.shape[-1] != k.shape[-1]:
                        continue
                    product = q @ k.swapaxes(-1, -2)
                    yield from _measured(place, words, groups, product, axis, q.shape[-1])


def _all_floats(place: Place) -> Iterator[tuple[str, Array]]:
    for name, array in place.inputs.items():
        if array.dtype.kind == "f" and array.ndim and np.isfinite(array).all():
            yield name, array


def _are_roles(q: str, k: str, names: tuple[str, ...]) -> bool:
    """Whether two arrays may be queries and keys: not one of them twice, unless it is the only."""
    return q != k or len(names) == 1


def _keys(array: Array, words: Words, shape: tuple[int, int, int]) -> Iterator[tuple[Words, Array]]:
    """The keys (B, heads, T, d) split as the queries, with fewer heads of their own repeated."""
    examples, heads, length = shape
    for own in range(heads, 0, -1):
        if heads % own:
            continue
        for split, k in as_heads(array, (examples, own, length)):
            if split == words:
                yield from repeated(k, heads)


def repeated(k: Array, heads: int) -> Iterator[tuple[Words, Array]]:
    """Keys or values (B, g, T, d) for as many heads as there are queries of."""
    own = k.shape[1]
    one = Words("shares", "each head of keys among neighbouring heads of queries (repeat)")
    if own == heads:
        yield one, k
        return
    yield one, np.repeat(k, heads // own, axis=1)
    if own > 1:
        tiled = "each head of keys among every g-th head of queries (tile)"
        yield Words("shares", tiled), np.tile(k, (1, heads // own, 1, 1))


def _measured(
    place: Place, words: Words, groups: Words, product: Array, axis: int | None, depth: int
) -> Iterator[Way]:
    """The scores with the scale, bias and mask that either side's show."""
    has_mask = not any(_allowed(target, axis).all() for target in place.targets)
    for target in place.targets:
        allowed = _allowed(target, axis)
        values = target
        if axis is not None:
            with np.errstate(divide="ignore"):
                values = np.log(np.where(allowed, target, 1.0))
        for with_bias in (False, True):
            fit = _fit(product, values, allowed, axis, with_bias=with_bias)
            if fit is None or fit.residual > max(EXACT, place.tolerance):
                continue
            given = fit.scale * product + fit.bias
            mask, seen = _mask_of(allowed, place, axis)
            result = np.where(allowed, given, target)
            if axis is not None:
                result = softmax(np.where(seen, given, -np.inf), axis)
            yield Way(
                {
                    "scale": scale_words(_whole(fit.scale), place, depth),
                    "mask": mask,
                    "split": words,
                    "groups": groups,
                    "bias": _bias_words(fit.bias),
                    "masked": _masked_words(target, allowed, axis, has_mask),
                },
                result,
            )
            break


def _fit(
    product: Array, values: Array, allowed: NDArray[np.bool_], axis: int | None, *, with_bias: bool
) -> _Fit | None:
    """The scale, and the bias of each head and distance, that come nearest to scores."""
    weight = allowed.astype(np.float64)
    x, y = np.where(allowed, product, 0.0), np.where(allowed, values, 0.0)
    if axis is not None:  # a row's own number goes
        x, y = (part - _mean(part, weight, axis) * weight for part in (x, y))
    x_free, y_free = x, y
    if with_bias:
        # rows that are masked differ in what they are centred by: those biases are not told
        if axis is not None or product.shape[0] < 2:
            return None
        x_free, y_free = (part - _of_distance(part, weight) * weight for part in (x, y))
    squares = float(np.square(x_free).sum())
    if not squares or not np.square(y).sum():
        return None
    scale = float((x_free * y_free).sum()) / squares
    bias = _of_distance(y - scale * x, weight) if with_bias else np.zeros((1, 1, 1, 1))
    left = (y - scale * x - bias) * weight
    return _Fit(scale, bias, float(np.linalg.norm(left) / np.linalg.norm(y)))


def _mask_of(
    allowed: NDArray[np.bool_], place: Place, axis: int | None
) -> tuple[Words, NDArray[np.bool_]]:
    """The mask in words, and what it leaves. A probability may be 0 as it is too small."""
    words = mask_words(allowed, place)
    if axis is None or not is_unknown(words):
        return words, allowed
    for known, seen in masks(place, allowed.shape):
        whole = np.broadcast_to(seen, allowed.shape)
        if not (allowed & ~whole).any() and (whole & ~allowed).mean() < UNDERFLOW:
            return known, whole
    return words, allowed


def _mean(array: Array, weight: Array, axis: int) -> Array:
    count = np.maximum(weight.sum(axis=axis, keepdims=True), 1.0)
    return np.asarray((array * weight).sum(axis=axis, keepdims=True) / count)


def _of_distance(array: Array, weight: Array) -> Array:
    """The mean over examples and places of each head and distance, laid out as the scores."""
    _, heads, length, width = array.shape
    distance = np.arange(width)[None, :] - np.arange(length)[:, None] + length - 1
    result = np.zeros((1, heads, length, width))
    for head in range(heads):
        count = np.zeros(length + width - 1)
        total = np.zeros(length + width - 1)
        np.add.at(count, np.broadcast_to(distance, array[:, head].shape), weight[:, head])
        np.add.at(
            total,
            np.broadcast_to(distance, array[:, head].shape),
            array[:, head] * weight[:, head],
        )
        result[0, head] = (total / np.maximum(count, 1.0))[distance]
    return result


def _bias_words(bias: Array) -> Words:
    if bias.size == 1 or np.abs(bias).max() == 0:
        return NO_BIAS
    length, width = bias.shape[2:]
    distance = np.arange(width)[None, :] - np.arange(length)[:, None]
    for name, ramp in (("j - i", distance), ("-|i - j|", -np.abs(distance))):
        is_biased = bias[0] != 0
        squares = (np.square(ramp) * is_biased).sum(axis=(1, 2))
        slope_h = (bias[0] * ramp).sum(axis=(1, 2)) / np.maximum(squares, 1)
        left = np.where(is_biased, bias[0] - slope_h[:, None, None] * ramp, 0.0)
        if np.linalg.norm(left) <= EXACT * np.linalg.norm(bias):
            slopes = ", ".join(number(slope) for slope in slope_h[:4])
            return Words("adds", f"a bias of {name} times {slopes} by head (ALiBi)")
    return Words("adds", "a bias that depends on head and distance alone (relative positions)")


def _whole(scale: float) -> float:
    """A measured scale as somebody would write it: 1, 1 / sqrt(n) or 1 / n, where it is near."""
    for power in (-0.5, -1.0, 0.5, 1.0):
        n = round(abs(scale) ** (1 / power)) if scale else 0
        if 1 <= n < MOST_WHOLE and abs(n**power / scale - 1) < ROUND:
            return float(n**power)
    return scale


def scale_words(scale: float, place: Place, depth: int) -> Words:
    """A scale of scores in words, with what the number under its root is of the shapes.

    Args:
        scale: of the scores.
        place: the layer, with its inputs.
        depth: numbers in a head of the queries.
    """
    verb = "scales its scores by"
    if scale == 1:
        return Words(verb, "1 (not at all)", scale)
    inverse = 1 / scale
    square = round(inverse**2)
    if square == depth**2 and abs(inverse - depth) < ROUND * depth:
        widths = {array.shape[-1] for array in place.inputs.values() if array.ndim == 3}
        or_width = f", or 1/sqrt({square}) of the width" if square in widths else ""
        return Words(verb, f"1/{depth} (1/sqrt({depth}) twice{or_width})", scale)
    if square >= 1 and abs(inverse**2 - square) < ROUND * square:
        return Words(verb, f"1/sqrt({square}){_origin(square, place, depth)}", scale)
    if round(inverse) >= 1 and abs(inverse - round(inverse)) < ROUND:
        return Words(verb, f"1/{round(inverse)}", scale)
    if square < 1 and abs(scale**2 - round(scale**2)) < ROUND * scale**2:
        return Words(verb, f"sqrt({round(scale**2)})", scale)
    return Words(verb, number(scale), scale)


def _origin(square: int, place: Place, depth: int) -> str:
    """Which size of the shapes a number is: of a head, of a width, or of a width over the heads."""
    if square == depth:
        return f" (a head's size is {depth})"
    widths = {array.shape[-1] for array in place.inputs.values() if array.ndim == 3}
    if square in widths:
        return f" ({square} is a width, a head's size {depth})"
    heads = place.mine.shape[1] if place.mine.ndim == 4 else 0
    for width in sorted(widths):
        if heads and square * heads == width:
            return f" (a width of {width} over {heads} heads; a head's size is {depth})"
    return ""


def _allowed(target: Array, axis: int | None) -> NDArray[np.bool_]:
    if axis is not None:
        return np.asarray(target > 0)
    return ~is_masked(target)


def is_masked(scores: Array) -> NDArray[np.bool_]:
    """Which scores a mask has made -inf, or a number far below all others."""
    return np.asarray(~np.isfinite(scores) | (scores <= MASKED))


def _masked_words(
    target: Array, allowed: NDArray[np.bool_], axis: int | None, has_mask: bool
) -> Words:
    if axis is not None or not has_mask:
        return Words("", "")
    values = target[~allowed]
    if np.isneginf(values).all():
        return Words("masks with", "-inf")
    return Words("masks with", number(float(np.median(values)), 2))


def _softmax_axis(target: Array) -> int | None:
    """The axis of the last two along which non-negative values add up to 1; None where none."""
    if not np.isfinite(target).all() or (target < 0).any():
        return None
    for axis in (-1, -2):
        if np.abs(target.sum(axis=axis) - 1).max() < 1e-3:
            return axis
    return None


def softmax(values: Array, axis: int) -> Array:
    """The softmax over an axis; rows of -inf alone are NaN."""
    with np.errstate(invalid="ignore"):
        weights = np.exp(values - values.max(axis=axis, keepdims=True))
        return np.asarray(weights / weights.sum(axis=axis, keepdims=True))


def _ways_of_softmax(place: Place) -> Iterator[Way]:
    """The probabilities that recorded scores give, by the axis, the mask and a factor."""
    if any((target < 0).any() for target in place.targets):
        return  # no probabilities
    names = {-1: "keys (the last axis)", -2: "queries (the axis before the last)"}
    names |= {1: "heads", 0: "examples"}
    for _, array in _all_floats_or_masked(place):
        if array.shape != place.mine.shape:
            continue
        for axis, name in names.items():
            for mask, allowed in masks(place, array.shape):
                given = softmax(np.where(allowed, array, -np.inf), axis)
                yield Way({"axis": Words("takes the softmax over", name), "mask": mask}, given)
        for target in place.targets:
            if _softmax_axis(target) != -1 or gap(target, softmax(array, -1)) < EXACT:
                continue
            words = mask_words(target > 0, place)
            given = softmax(np.where(target > 0, array, -np.inf), -1)
            yield Way({"axis": Words("takes the softmax over", names[-1]), "mask": words}, given)


def _all_floats_or_masked(place: Place) -> Iterator[tuple[str, Array]]:
    for name, array in place.inputs.items():
        if array.dtype.kind == "f" and array.ndim and not np.isnan(array).any():
            yield name, array
