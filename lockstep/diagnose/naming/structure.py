"""Counterparts by what surrounds a tensor: the module beside it, the block around it, its number
among its like, the order of calls, and what its module is called.

Each pair that kinds, roles and shapes allow is scored, and a pair is settled where either is the
other's best by a margin. What is settled tells more of what is left.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache

import numpy as np

from lockstep.diagnose.naming.conventions import Conventions
from lockstep.diagnose.naming.search import Candidates, Search
from lockstep.diagnose.naming.sides import Side
from lockstep.diagnose.naming.words import likeness, read_name

__all__ = ["Structure"]

MODULE = 20.0
"""The score of a tensor whose module's other tensors have their counterparts in that module."""
BLOCK = 4.0
MOST = 0.25
"""Weight of a block that holds most of the model, as `model.` or `decoder.`."""
NUMBER = 3.0
BESIDE = 2.0
NAME = 3.0
ORDER = 2.0
DECLARED = 1.0
MARGIN = 0.5
"""How much a pair's score must lie above that of every other pair of either."""
LEAST = 1.5
"""Score that a pair needs: the order in which parameters are declared is not enough alone."""

BY_NAME = "name and order, as the values do not tell"
BY_CONVENTION = "by convention: the values differ"

Pair = tuple[str, str]
Prefix = tuple[str, ...]


class Structure:
    """Scores of pairs, by what is settled at present."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.pairs: list[Pair] = []
        for name, source in search.settled.items():
            self.pairs += [(name, part) for part in dict.fromkeys(source.names)]
        self.blocks: Counter[tuple[Prefix, Prefix]] = Counter()
        self.blocks_a: Counter[Prefix] = Counter()
        self.blocks_b: Counter[Prefix] = Counter()
        self.whole_a = _whole(search.a)
        self.whole_b = _whole(search.b)
        for name, other in self.pairs:
            prefixes_a = _prefixes(name, self.whole_a)
            prefixes_b = _prefixes(other, self.whole_b)
            self.blocks_a.update(prefixes_a)
            self.blocks_b.update(prefixes_b)
            self.blocks.update((p, q) for p in prefixes_a for q in prefixes_b)
        self.beside: dict[tuple[Prefix, Prefix], list[Pair]] = {}
        for pair in self.pairs:
            self.beside.setdefault((_block(pair[0]), _block(pair[1])), []).append(pair)
        self.is_called = search.a.has_call_order and search.b.has_call_order
        self.open_a = search.open_a
        self.open_b = search.open_b
        self._like_of_a = cache(lambda name: _like(name, self.open_a, search.a))
        self._like_of_b = cache(lambda name: _like(name, self.open_b, search.b))
        self._places = self._module_places()

    def settle(self, *, by_value: bool) -> bool:
        """Settle what is sure at present, among tensors that hold the same numbers or else among
        the others. Says whether there was any.
        """
        search = self.search
        conventions = Conventions(search)
        layouts_of: dict[Pair, Candidates] = {}
        for name, live in search.candidates().items():
            if search.has_equal_values(name, live) != by_value:
                continue
            for layout in live:
                layouts_of.setdefault((name, layout.name), []).append(layout)
        scores = {pair: self.score(*pair) for pair in layouts_of}
        best_of_a, best_of_b = _best_two(scores, 0), _best_two(scores, 1)
        settled = False
        for (name, other), score in scores.items():
            rival = max(_rival(best_of_a[name], score), _rival(best_of_b[other], score))
            if np.isfinite(rival) and score < max(LEAST, rival + MARGIN):
                continue
            live = layouts_of[name, other]
            chosen = conventions.choose(name, live)
            if chosen is not None:
                search.settle(name, chosen, self._reason(name, is_chosen=len(live) > 1))
                settled = True
        return settled

    def _reason(self, name: str, *, is_chosen: bool) -> str:
        if is_chosen and name not in self.search.constants:
            return BY_CONVENTION
        return BY_NAME

    # ---- scores

    def score(self, name: str, other: str) -> float:
        """How much speaks for a pair."""
        of_module, _ = self.search.links
        module = read_name(name).module
        beside = read_name(other).module in of_module.get(module, set())
        return (
            MODULE * (beside and bool(module))
            + BLOCK * self._block(name, other)
            + NUMBER * self._number(name, other)
            + BESIDE * self._numbered_beside(name, other)
            + NAME * likeness(name, other)
            + (ORDER if self.is_called else DECLARED) * self._order(name, other)
        )

    def _block(self, name: str, other: str) -> float:
        """How far the blocks around both are each other's, by what is settled in them: -1 to 1."""
        around_a = [p for p in _prefixes(name, self.whole_a) if self.blocks_a[p]]
        around_b = [q for q in _prefixes(other, self.whole_b) if self.blocks_b[q]]
        weights = [self._weight(self.blocks_a[p]) for p in around_a]
        weights += [self._weight(self.blocks_b[q]) for q in around_b]
        if not weights:
            return 0.0
        if not around_a or not around_b:
            return -0.5 * max(weights)
        shares = [max(self._share(p, q) for q in around_b) for p in around_a]
        shares += [max(self._share(p, q) for p in around_a) for q in around_b]
        agreements = [weight * (2 * share - 1) for weight, share in zip(weights, shares)]
        return sum(agreements) / len(agreements)

    def _weight(self, count: int) -> float:
        """How much a block says that holds so many of the settled pairs: little, if most."""
        return 1.0 if 2 * count <= len(self.pairs) else MOST

    def _share(self, block_a: Prefix, block_b: Prefix) -> float:
        """The share of the pairs in either block that are in both."""
        both = self.blocks[block_a, block_b]
        return both / (self.blocks_a[block_a] + self.blocks_b[block_b] - both)

    def _number(self, name: str, other: str) -> float:
        """Whether both have one place among as many names that differ in their numbers alone: -1 to
        1. Where there are not as many, the places of their blocks count for half, and those within
        the blocks for half.
        """
        series_a = self.search.a.templates[read_name(name).template]
        series_b = self.search.b.templates[read_name(other).template]
        if len(series_a) == len(series_b) > 1:
            return 1.0 if series_a.index(name) == series_b.index(other) else -1.0
        in_block = self._number_in_block(name, other, series_a, series_b)
        return self._number_of_block(name, other, series_a, series_b) + in_block

    def _number_of_block(
        self, name: str, other: str, series_a: list[str], series_b: list[str]
    ) -> float:
        for of_block in (_block_numbers, _first_number):
            blocks_a = sorted({of_block(rival) for rival in series_a})
            blocks_b = sorted({of_block(rival) for rival in series_b})
            if len(blocks_a) == len(blocks_b) > 1:
                same = blocks_a.index(of_block(name)) == blocks_b.index(of_block(other))
                return 0.5 if same else -0.5
        return 0.0

    def _number_in_block(
        self, name: str, other: str, series_a: list[str], series_b: list[str]
    ) -> float:
        near_a = _near(name, series_a, self.search.a)
        near_b = _near(other, series_b, self.search.b)
        if len(near_a) == len(near_b) > 1:
            return 0.5 if near_a.index(name) == near_b.index(other) else -0.5
        like_a = self._like_of_a(name)
        like_b = self._like_of_b(other)
        is_ordered = self.is_called or _are_numbered(like_a) or _are_numbered(like_b)
        if is_ordered and len(like_a) == len(like_b) > 1:
            return 0.5 if like_a.index(name) == like_b.index(other) else -0.5
        return 0.0

    def _numbered_beside(self, name: str, other: str) -> float:
        """Whether what has a tensor's number beside it is the counterpart of what has the other's,
        as conv1 of bn1: -1, 0 or 1.
        """
        number_a, number_b = _last_number(name), _last_number(other)
        if not number_a or not number_b:
            return 0.0
        pairs = self.beside.get((_block(name), _block(other)), [])
        of_a = {pair for pair in pairs if _last_number(pair[0]) == number_a}
        of_b = {pair for pair in pairs if _last_number(pair[1]) == number_b}
        if not of_a or not of_b:
            return 0.0
        return 1.0 if of_a & of_b else -1.0

    def _order(self, name: str, other: str) -> float:
        """Whether both are called between the same settled modules, and at one place among their
        like there: -1 to 1; 0 where either order is not known.
        """
        place_a, place_b = (
            self._places[0].get(read_name(name).module),
            self._places[1].get(read_name(other).module),
        )
        if place_a is None or place_b is None:
            return 0.0
        if place_a[0] != place_b[0]:
            return -1.0
        return 1.0 if place_a[1:] == place_b[1:] else 0.0

    def _module_places(self) -> tuple[dict[str, tuple[int, int, int]], ...]:
        """Of each side: module -> how many anchors come before it, its place among the open modules
        up to the next anchor, and their number.

        Anchors are modules that are settled as each other's, in one order on both sides.
        """
        order_a, order_b = self.search.a.order, self.search.b.order
        of_a, _ = self.search.links
        anchors: list[tuple[int, int]] = []
        for module, place in sorted(order_a.items(), key=lambda item: item[1]):
            others = of_a.get(module, set())
            places = [order_b[other] for other in others if other in order_b]
            if len(others) == len(places) == 1 and (not anchors or places[0] > anchors[-1][1]):
                anchors.append((place, places[0]))
        return (
            _between(order_a, [place for place, _ in anchors]),
            _between(order_b, [place for _, place in anchors]),
        )


def _best_two(scores: Mapping[Pair, float], side: int) -> dict[str, list[float]]:
    """A name of one side -> its two best scores, the best first."""
    best: dict[str, list[float]] = {}
    for pair, score in scores.items():
        scores_of_name = [*best.get(pair[side], []), score]
        best[pair[side]] = sorted(scores_of_name, reverse=True)[:2]
    return best


def _rival(best: list[float], score: float) -> float:
    """The best score of all other pairs of a name."""
    first, *rest = best
    return first if score < first else max(rest, default=-np.inf)


def _between(order: dict[str, int], anchors: list[int]) -> dict[str, tuple[int, int, int]]:
    spans: dict[int, list[str]] = {}
    for module, place in sorted(order.items(), key=lambda item: item[1]):
        if place not in anchors:
            spans.setdefault(sum(anchor < place for anchor in anchors), []).append(module)
    return {
        module: (before, place, len(modules))
        for before, modules in spans.items()
        for place, module in enumerate(modules)
    }


def _prefixes(name: str, whole: Prefix = ()) -> list[Prefix]:
    """The blocks around a tensor's module, without the whole model."""
    path = read_name(name).path
    return [path[:length] for length in range(len(whole) + 1, len(path))]


def _whole(side: Side) -> Prefix:
    """The path that all modules of a side begin with, as of a model in another."""
    paths = [read_name(name).path[:-1] for name in side.arrays]
    whole = min(paths, key=len, default=())
    while any(path[: len(whole)] != whole for path in paths):
        whole = whole[:-1]
    return whole


def _block(name: str) -> Prefix:
    """The path of the block around a tensor's module."""
    return read_name(name).path[:-1]


def _block_numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", ".".join(_block(name))))


def _first_number(name: str) -> tuple[int, ...]:
    return read_name(name).numbers[:1]


def _last_number(name: str) -> str:
    """The number in the last part of a module's name, or ""."""
    path = read_name(name).path
    numbers = re.findall(r"\d+", path[-1]) if path else []
    return str(numbers[-1]) if numbers else ""


def _near(name: str, series: list[str], side: Side) -> list[str]:
    """The names of a series in a tensor's block that have its size."""
    size = side.arrays[name].size
    return [
        rival
        for rival in series
        if _block(rival) == _block(name) and side.arrays[rival].size == size
    ]


def _like(name: str, open_names: list[str], side: Side) -> list[str]:
    """The open names of a tensor's numbered block that have its role and size, in order; [] where
    neither numbers nor calls order them.
    """
    size = side.arrays[name].size
    like = [
        rival
        for rival in open_names
        if _numbered_block(rival) == _numbered_block(name)
        and read_name(rival).role == read_name(name).role
        and side.arrays[rival].size == size
    ]
    if _are_numbered(like):
        return sorted(like, key=lambda rival: read_name(rival).numbers)
    if all(read_name(rival).module in side.order for rival in like):
        return sorted(like, key=lambda rival: side.order[read_name(rival).module])
    return []


def _are_numbered(names: list[str]) -> bool:
    """Whether names differ in their numbers alone."""
    return len({read_name(name).template for name in names}) == 1


def _numbered_block(name: str) -> Prefix:
    """The path around a tensor's module up to its last number."""
    path = _block(name)
    while path and not re.search(r"\d", path[-1]):
        path = path[:-1]
    return path
