"""Normalisations: what is normalised, over which axes, by which variance and eps, and how it is
scaled and shifted.

A norm gives w (x - mean) / sqrt(v + eps) + b. From x and the output, with w and b undone, each
group that is normalised together gives its factor 1 / sqrt(v + eps), and so eps.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.places import Place, contrast_of, gap
from lockstep.diagnose.between.layers.ways import Topic, Way, Words, told_apart
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.local.norms import likely_eps
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array

__all__ = ["norms"]

IDEA = "another normalisation"
TOPICS = {
    "eps": Topic("norm-eps", "layernorm-eps"),
    "place": Topic("norm-eps-place", "layernorm-eps"),
    "affine": Topic("norm-affine", "rmsnorm-one-plus-weight"),
    "variance": Topic("norm-variance", "std-divides-by-n"),
    "kind": Topic("other-norm", "rmsnorm-one-plus-weight"),
    "input": Topic("norm-input", "rmsnorm-one-plus-weight"),
}
NEAREST = 5
"""Arrays before a norm whose sums it may take in."""
MOST_TERMS = 3
MOST_GROUPS = 64
LARGEST_EPS = 1e3
"""The largest eps over the mean variance; beyond it the output is its input times a number."""


class _Kind(NamedTuple):
    """What is normalised together: its words, the axes of an array, and whether it is centred."""

    words: Words
    axes: tuple[int, ...]
    groups: int
    is_centred: bool


class _Affine(NamedTuple):
    """The factor and the shift behind a normalisation, which spread to the output's shape."""

    words: Words
    weight: Array
    bias: Array


def norms(pair: LoopPair) -> Iterator[Explanation]:
    """That a layer normalises otherwise on either side."""
    place = contrast_of(pair)
    if place is None or place.mine.ndim < 2 or any(v.ndim > 1 for v in place.own.values()):
        return
    if not place.is_finite:
        return
    explanation = told_apart(pair, place, TOPICS, _ways(place), IDEA)
    if explanation is None:
        return
    # an eps is a number that was fitted: what a side's own input tells of it comes first
    yield explanation._replace(free=int(explanation.key == TOPICS["eps"].key))


def _ways(place: Place) -> Iterator[Way]:
    affines = list(_affines(place))
    for source, x in _inputs(place):
        fits = False
        for kind in _kinds(x.shape):
            for affine in affines:
                for target in place.targets:
                    for way in _fitted(x, source, kind, affine, target):
                        fits |= gap(way.array, target) <= place.tolerance
                        yield way
        if fits:
            for affine in affines:
                words = _knobs(source, NO_NORM, affine.words, 0.0, PLAIN_VARIANCE, INSIDE)
                yield Way(words, affine.weight * x + affine.bias)


NO_NORM = Words("normalises", "nothing")
PLAIN_VARIANCE = Words("takes the variance over", "n")
WIDE_VARIANCE = Words("takes the variance over", "n - 1")
INSIDE = Words("adds its eps", "inside the root")
OUTSIDE = Words("adds its eps", "outside the root")


def _inputs(place: Place) -> Iterator[tuple[Words, Array]]:
    """The inputs of the output's shape, and sums of them, as a residual stream is one."""
    arrays = {name: x for name, x in place.floats() if x.shape == place.mine.shape}
    for name, x in arrays.items():
        yield Words("takes in", name), x
    terms = {
        name: np.broadcast_to(x, place.mine.shape)
        for name, x in place.floats()
        if (x.ndim > 1 and place.mine.shape[-x.ndim :] == x.shape) or _spreads(x, place.mine)
    }
    nearest = list(terms)[:NEAREST]
    for count in range(2, MOST_TERMS + 1):
        for names in combinations(nearest, count):
            total = np.asarray(sum(terms[name] for name in names))
            yield Words("takes in", " + ".join(reversed(names))), total


def _spreads(x: Array, target: Array) -> bool:
    """Whether an array (1, T, D) spreads over the examples of a target (B, T, D)."""
    return x.ndim == target.ndim and x.shape[1:] == target.shape[1:] and x.shape[0] == 1


def _kinds(shape: tuple[int, ...]) -> Iterator[_Kind]:
    last = len(shape) - 1
    yield _Kind(Words("normalises", "each row (LayerNorm)"), (last,), 1, True)
    yield _Kind(Words("normalises", "each row without centring (RMSNorm)"), (last,), 1, False)
    for axis in range(last):
        words = Words("normalises", f"over axis {axis} of {len(shape)}, not the last")
        yield _Kind(words, (axis,), 1, True)
    inner = tuple(range(1, last + 1))
    if last > 1:
        yield _Kind(Words("normalises", "each example whole"), inner, 1, True)
        outer = tuple(range(last))
        yield _Kind(Words("normalises", "each column over all rows"), outer, 1, True)
    for groups in range(2, min(shape[-1] // 2, MOST_GROUPS) + 1):
        if shape[-1] % groups == 0:
            words = Words("normalises", f"{groups} groups of each row (GroupNorm)")
            yield _Kind(words, (last,), groups, True)


def _affines(place: Place) -> Iterator[_Affine]:
    """The ways to apply a layer's own vectors, the usual one first."""
    vectors = {role: v for role, v in place.own.items() if v.shape == place.mine.shape[-1:]}
    bias = next((v for role, v in vectors.items() if role in ("bias", "beta", "b")), None)
    weight = next((v for role, v in vectors.items() if v is not bias), None)
    one, zero = np.ones(1), np.zeros(1)
    verb = "scales what it normalised"
    if weight is not None:
        yield _Affine(Words(verb, "by its weight"), weight, zero if bias is None else bias)
        plus_one = Words(verb, "by 1 + its weight")
        yield _Affine(plus_one, 1 + weight, zero if bias is None else bias)
        if bias is not None:
            yield _Affine(Words(verb, "by its weight, without its bias"), weight, zero)
    if bias is not None:
        yield _Affine(Words(verb, "not at all, and adds its bias"), one, bias)
    yield _Affine(Words(verb, "not at all"), one, zero)


def _fitted(x: Array, source: Words, kind: _Kind, affine: _Affine, target: Array) -> Iterator[Way]:
    """The norms with the eps that a target shows."""
    if (affine.weight == 0).any():
        return
    undone = _in_groups((target - affine.bias) / affine.weight, kind)
    given = _in_groups(x, kind)
    axes = (-1,) if kind.groups > 1 else kind.axes
    count = int(np.prod([given.shape[axis] for axis in axes]))
    if count < 2:
        return
    centre = given.mean(axis=axes, keepdims=True) if kind.is_centred else 0.0
    plain = given - centre
    variance = np.square(plain).mean(axis=axes, keepdims=True)
    slope = (undone * plain).mean(axis=axes, keepdims=True) / np.maximum(variance, 1e-300)
    if not (slope > 0).all() or not (variance > 0).all():
        return
    off = float(np.linalg.norm(undone - slope * plain))
    if off > 1e-2 * float(np.linalg.norm(undone)):
        return
    wide = count / (count - 1)
    for words, factor, place in (
        (PLAIN_VARIANCE, 1.0, INSIDE),
        (WIDE_VARIANCE, wide, INSIDE),
        (PLAIN_VARIANCE, 1.0, OUTSIDE),
    ):
        size = variance * factor
        each = 1 / np.square(slope) - size if place == INSIDE else 1 / slope - np.sqrt(size)
        weight = 1 / np.square(size if place == INSIDE else np.sqrt(size))
        eps = float((each * weight).sum() / weight.sum())
        spread = float(np.sqrt((np.square(each - eps) * weight).sum() / weight.sum()))
        if eps < 0 and -eps > 1e-6 * float(size.mean()):
            continue
        error = max(spread / np.sqrt(each.size), 1e-7 * float(size.min()))
        eps = max(likely_eps(eps, error), 0.0)
        if eps > LARGEST_EPS * float(size.mean()):
            continue
        below = np.sqrt(size + eps) if place == INSIDE else np.sqrt(size) + eps
        result = _from_groups(plain / below, kind, x.shape) * affine.weight + affine.bias
        yield Way(_knobs(source, kind.words, affine.words, eps, words, place), result)


def _knobs(
    source: Words, kind: Words, affine: Words, eps: float, variance: Words, place: Words
) -> dict[str, Words]:
    return {
        "kind": kind,
        "eps": Words("adds an eps of", number(eps) if eps else "0, or too little to tell", eps),
        "variance": variance,
        "place": place,
        "affine": affine,
        "input": source,
    }


def _in_groups(array: Array, kind: _Kind) -> Array:
    if kind.groups == 1:
        return array
    return array.reshape(*array.shape[:-1], kind.groups, -1)


def _from_groups(array: Array, kind: _Kind, shape: tuple[int, ...]) -> Array:
    return array.reshape(shape) if kind.groups > 1 else array
