"""Sums that a layer takes in or gives: residual streams and embeddings, term by term.

Candidates are the arrays before the layer and the rows that tokens and places take out of tables.
Their factors are found by least squares, for as few terms as give an output.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.lookups import lookups
from lockstep.diagnose.between.layers.places import Place, contrast_of, gap, place_of
from lockstep.diagnose.between.layers.ways import Topic, Way, Words, told_apart
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.causes.precision import rounded_to
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array

__all__ = ["nothing", "streams"]

IDEA = "other terms of a sum"
NEAREST = 6
"""Arrays before a layer that it may add."""
MOST_TERMS = 3
MOST_COMBINATIONS = 6000
MOST_OF_GROUP = 4
"""Terms of a group that are tried among three."""
SAMPLED = 2048
"""Elements by which the factors of terms are found."""
NOTHING = 1e-4
"""A factor below this is 0."""


class _Term(NamedTuple):
    """A summand: its group, of which a sum has one at most, what it is in words, and its array."""

    group: str
    what: str
    array: Array


def streams(pair: LoopPair) -> Iterator[Explanation]:
    """That a sum has other terms, or other factors, on either side."""
    place = contrast_of(pair)
    if place is None or place.mine.ndim < 2:
        return
    if not place.is_finite:
        return
    terms = _terms(place)
    topics = {term.group: _topic(term) for term in terms}
    explanation = told_apart(pair, place, topics, _ways(place, terms), IDEA)
    if explanation is not None:
        yield explanation


def nothing(pair: LoopPair) -> Iterator[Explanation]:
    """That one side's output is 0 everywhere."""
    place = place_of(pair)
    if place is None or place.mine.any() or not place.other.any():
        return
    text = f"{pair.mine.name}'s {place.layer} is 0 everywhere, {pair.other.name}'s is not"
    predicted = {place.layer: np.zeros(place.mine.shape)}
    yield Explanation("output-zero", text, predicted, "an output of 0")


def _topic(term: _Term) -> Topic:
    if term.group.startswith("rows of "):
        return Topic("embedding", "embedding-scale-and-position")
    return Topic("sum-of-terms", "embedding-scale-and-position")


def _terms(place: Place) -> list[_Term]:
    shape = place.mine.shape
    arrays = [entry for entry in place.floats() if _broadcasts(entry[1], shape)][:NEAREST]
    terms = [_Term(name, name, np.broadcast_to(array, shape)) for name, array in arrays]
    for table, what, rows in lookups(place):
        if not _broadcasts(rows, shape):
            continue
        array = np.broadcast_to(rows, shape)
        if all(gap(array, term.array) > place.tolerance for term in terms):
            terms.append(_Term(f"rows of {table}", what, array))
    return terms


def _broadcasts(array: Array, shape: tuple[int, ...]) -> bool:
    if array.ndim < 2 or array.ndim > len(shape):
        return False
    sizes = zip(array.shape[::-1], shape[::-1])
    return all(own in (1, size) for own, size in sizes) and array.shape[-1] == shape[-1]


def _ways(place: Place, terms: Sequence[_Term]) -> Iterator[Way]:
    """The sums of fewest terms that give either output."""
    random = np.random.default_rng(0)
    size = place.mine.size
    picked = random.permutation(size)[:SAMPLED] if size > SAMPLED else np.arange(size)
    columns = [term.array.reshape(-1)[picked] for term in terms]
    for target in place.targets:
        y = target.reshape(-1)[picked]
        if not np.isfinite(y).all():
            continue
        tried = 0
        for count in range(1, MOST_TERMS + 1):
            held = False
            few = range(len(terms)) if count < MOST_TERMS else _plainest(terms)
            for chosen in combinations(few, count):
                groups = {terms[index].group for index in chosen}
                if len(groups) < count or tried > MOST_COMBINATIONS:
                    continue
                tried += 1
                way = _sum(place, terms, chosen, [columns[index] for index in chosen], y)
                if way is not None:
                    held = True
                    yield way
            if held:
                break


def _plainest(terms: Sequence[_Term]) -> list[int]:
    """The places of the first few terms of each group."""
    counts: dict[str, int] = {}
    places: list[int] = []
    for place, term in enumerate(terms):
        counts[term.group] = counts.get(term.group, 0) + 1
        if counts[term.group] <= MOST_OF_GROUP:
            places.append(place)
    return places


def _sum(
    place: Place,
    terms: Sequence[_Term],
    chosen: Sequence[int],
    columns: Sequence[Array],
    y: Array,
) -> Way | None:
    """The sum of some terms with the factors that come nearest to y; None where it is far off."""
    matrix = np.stack(columns, axis=1)
    if not np.isfinite(matrix).all():
        return None
    factors, _, rank, _ = np.linalg.lstsq(matrix, y, rcond=None)
    off = float(np.linalg.norm(matrix @ factors - y))
    is_near = off <= place.tolerance * float(np.linalg.norm(y))
    if not is_near or rank < len(chosen) or (np.abs(factors) < NOTHING).any():
        return None
    factors = np.array([_plain(factor, place) for factor in factors])
    total = np.zeros(place.mine.shape)
    for factor, index in zip(factors, chosen):
        total = total + factor * terms[index].array
    knobs = {}
    for term in terms:
        knobs[term.group] = Words("leaves out", term.group)
    for factor, index in zip(factors, chosen):
        term = terms[index]
        knobs[term.group] = _words(float(factor), term, place)
    return Way(knobs, total)


def _plain(factor: float, place: Place) -> float:
    """A factor as somebody would write it."""
    width = place.mine.shape[-1]
    root = float(np.sqrt(width))
    low = float(rounded_to("bfloat16", np.array(root)))
    for plain in (1.0, root, low, 1 / root, -1.0, 0.5, 2.0, float(np.sqrt(0.5))):
        if abs(factor / plain - 1) < max(1e-6, place.tolerance / 100):
            return plain
    return float(factor)


def _words(factor: float, term: _Term, place: Place) -> Words:
    width = place.mine.shape[-1]
    root = float(np.sqrt(width))
    if factor == 1:
        return Words("adds", term.what, 1.0)
    if factor == -1:
        return Words("subtracts", term.what)
    if factor == root:
        return Words("adds", f"sqrt({width}) = {number(root, 5)} times {term.what}", factor)
    if factor == float(rounded_to("bfloat16", np.array(root))):
        text = f"sqrt({width}) rounded to bfloat16, {number(factor, 5)}, times {term.what}"
        return Words("adds", text, factor)
    return Words("adds", f"{number(factor)} times {term.what}", factor)
