"""What two sides do differently at one layer: the way that gives the one's output, beside the way
that gives the other's.

A family of layers knows the ways in which people write it. Each is recomputed from what fed the
layer, and held against both sides' outputs. A cause is named where one way gives one side's output
and another way the other's.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.places import Place, gap
from lockstep.diagnose.between.pair import LoopPair
from lockstep.numbers import factor
from lockstep.oracle.arithmetic import Array

__all__ = ["Topic", "Way", "Words", "told_apart"]

MOST = 12
"""Ways that are kept for each side."""
APART = 10.0
"""A way must come so many times nearer to its own side's output than to the other's."""
ALIKE = 30.0
"""Ways that come as near, up to this factor, explain equally."""
MOST_WHOLE = 10**6
ROUND = 1e-6
"""Relative distance from a whole number within which it is named."""
FLOOR = 1e-3
"""No way comes nearer than this share of the tolerance but by chance."""


class Words(NamedTuple):
    """What a side does, as a verb and its object: "rotates" "the halves (i, i + d/2)".

    `size` is a number behind the object, of which the ratio is said, such as a scale; 0 for none.
    """

    verb: str
    what: str
    size: float = 0.0

    def __str__(self) -> str:
        return f"{self.verb} {self.what}".strip()


class Way(NamedTuple):
    """One way to compute a layer: what it does in each respect, and the output that it gives.

    Attributes:
        knobs: respect -> what is done; two ways of one family have the same respects.
        array: the output.
    """

    knobs: Mapping[str, Words]
    array: Array


class Topic(NamedTuple):
    """The key and the atlas page of a difference in one respect."""

    key: str
    page: str = ""


def told_apart(
    pair: LoopPair,
    place: Place,
    topics: Mapping[str, Topic],
    ways: Iterable[Way],
    idea: str,
) -> Explanation | None:
    """The explanation of `mine` by the way that gives its output, where another way gives the
    other side's; None where none does, or where one gives both.

    Of several the two are taken that differ in the fewest respects.

    Args:
        pair: the loops.
        place: where they part.
        topics: respect -> what a difference in it is called.
        ways: the plainest first.
        idea: of the family, for the list of what was ruled out.
    """
    mine: list[tuple[float, Way]] = []
    other: list[tuple[float, Way]] = []
    for way in ways:
        to_mine, to_other = (gap(way.array, target) for target in place.targets)
        if to_mine <= place.tolerance and to_mine * APART < to_other and len(mine) < MOST:
            mine.append((to_mine, way))
        elif to_other <= place.tolerance and to_other * APART < to_mine and len(other) < MOST:
            other.append((to_other, way))
    pairs = [
        (_differing(way, beside), way, beside)
        for way in _nearest(mine, place)
        for beside in _nearest(other, place)
    ]
    if any(way.knobs == beside.knobs for _, way, beside in pairs):
        return None
    pairs = [entry for entry in pairs if entry[0]]
    if not pairs:
        return None
    knobs, way, beside = min(pairs, key=lambda entry: len(entry[0]))
    text = f"{_sentence(pair.mine.name, knobs, way, beside)}"
    if pair.mine.name != "b":
        text = _sentence(pair.other.name, knobs, beside, way)
    topic = topics.get(knobs[0], Topic(idea.replace(" ", "-")))
    return Explanation(
        topic.key, f"at {place.layer} {text}", {place.layer: way.array}, idea, topic.page
    )


def _nearest(held: list[tuple[float, Way]], place: Place) -> list[Way]:
    least = min((error for error, _ in held), default=0.0)
    enough = max(least * ALIKE, FLOOR * place.tolerance)
    return [way for error, way in held if error <= enough]


def _differing(way: Way, beside: Way) -> list[str]:
    if way.knobs.keys() != beside.knobs.keys():
        return []
    return [knob for knob in way.knobs if way.knobs[knob] != beside.knobs[knob]]


def _sentence(name: str, knobs: list[str], way: Way, beside: Way) -> str:
    """What a side does and what the one beside it does: "b rotates pairs, a the halves"."""
    of_one = [way.knobs[knob] for knob in knobs]
    of_other = [beside.knobs[knob] for knob in knobs]
    rest = "a" if name == "b" else "b"
    shared = [one.verb == two.verb for one, two in zip(of_one, of_other)]
    others = [two.what if same else str(two) for two, same in zip(of_other, shared)]
    ratios = [
        f": {factor(one.size / two.size, 5)}{_root_of(one.size, two.size)} times {rest}'s"
        for one, two in zip(of_one, of_other)
        if one.size and two.size and one.size != two.size
    ]
    return f"{name} {' and '.join(map(str, of_one))}, {rest} {' and '.join(others)}" + "".join(
        ratios
    )


def _root_of(size: float, beside: float) -> str:
    """The ratio of 1 / sqrt(n) and 1 / sqrt(m) in words: " = sqrt(m/n)"; "" for other numbers."""
    squares = [1 / one**2 for one in (size, beside)]
    n, m = (round(square) for square in squares)
    are_whole = all(
        1 <= whole <= MOST_WHOLE and abs(square - whole) < ROUND * whole
        for square, whole in zip(squares, (n, m))
    )
    return f" = sqrt({m}/{n})" if are_whole else ""
