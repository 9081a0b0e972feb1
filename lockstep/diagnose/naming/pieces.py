"""Tensors that one side keeps in one array and the other in several, found by their values: joins,
slices, blocks in another order, mirrored kernels, and second names of one tensor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lockstep.diagnose.naming.layouts import Arrays, Join, Layout, Values
from lockstep.diagnose.naming.search import Search
from lockstep.diagnose.naming.values import is_constant, matches, partly_alike, ways

__all__ = ["follow_pieces", "second_names"]

PARTLY = "partly alike"
PARTS = 128
"""Most parts of one array, as the layers of a scanned stack."""


def follow_pieces(search: Search) -> bool:
    """Settle what holds the same numbers in pieces, in blocks of another order or mirrored, or in
    part. Says whether there was any.
    """
    for names, settle in (
        (search.open_a, _settle_turned),
        (search.open_a, _settle_join),
        (search.open_b, _settle_slices),
    ):
        untried = [name for name in names if (settle.__name__, name) not in search.tried]
        search.tried.update((settle.__name__, name) for name in untried)
        if sum(settle(search, name) for name in untried):
            return True
    return _settle_partly_alike(search)


def _drawn(arrays: Arrays, names: Sequence[str]) -> dict[str, Values]:
    """The arrays of these names that are not constant."""
    return {name: arrays[name] for name in names if not is_constant(arrays[name])}


def _settle_turned(search: Search, name: str) -> bool:
    """Settle a tensor that holds another's blocks in another order, or is its mirror."""
    array = search.a.arrays[name]
    if search.by_value[name] or name in search.constants:
        return False
    turned = []
    for other, value in _drawn(search.b.arrays, search.open_b).items():
        if search.are_near(name, other):
            turned += ways(array, other, value)
    if len(turned) != 1:
        return False
    search.settle(name, turned[0], "values, with blocks or axes in another order")
    return True


def _settle_join(search: Search, name: str) -> bool:
    """Settle a tensor of A that several of B make, one after another."""
    array = search.a.arrays[name]
    if search.by_value[name] or name in search.constants:
        return False
    parts = _drawn(search.b.arrays, search.open_b)
    for axis in range(array.ndim):
        row = _cut(array, axis, parts, as_slices=False)
        if len(row) > 1:
            search.settle(name, Join(tuple(row), axis), "values, joined")
            return True
    return False


def _settle_slices(search: Search, other: str) -> bool:
    """Settle the tensors of A that are slices of one of B."""
    array = search.b.arrays[other]
    if is_constant(array):
        return False
    parts = {
        name: value
        for name, value in _drawn(search.a.arrays, search.open_a).items()
        if not search.by_value[name]
    }
    for axis in range(array.ndim):
        row = _cut(array, axis, parts, as_slices=True)
        if len(row) > 1:
            for name, layout in zip(_names_of(row), row):
                search.settle(name, replace(layout, name=other), "values, a slice")
            return True
    return False


def _names_of(row: Sequence[Layout]) -> list[str]:
    return [layout.name for layout in row]


def _cut(array: Values, axis: int, parts: Arrays, *, as_slices: bool) -> list[Layout]:
    """The parts that an array is made of along an axis, from its begin to its end; [] where they do
    not make it, or where two would do.

    Args:
        array: the whole.
        axis: the axis.
        parts: what may be a part.
        as_slices: whether layouts lead from the slices to the parts, not from the parts to the
            slices.
    """
    row: list[Layout] = []
    size = array.shape[axis]
    across = array.size // max(size, 1)
    begin = 0
    left = dict(parts)
    while begin < size and len(row) < PARTS:
        found = list(_next_part(array, axis, begin, across, left, as_slices=as_slices))
        if len(found) != 1:
            return []
        layout = found[0]
        row.append(layout)
        begin += left.pop(layout.name).size // across
    return row if begin == size else []


def _next_part(
    array: Values, axis: int, begin: int, across: int, parts: Arrays, *, as_slices: bool
) -> Iterator[Layout]:
    size = array.shape[axis]
    for name, part in parts.items():
        length, rest = divmod(part.size, across)
        if rest or not 0 < length <= size - begin or length == size:
            continue
        piece = np.take(array, range(begin, begin + length), axis)
        if is_constant(piece):
            continue
        if as_slices:
            span = (begin, begin + length)
            yield from (
                replace(layout, span=span, axis=axis)
                for layout in matches(part, name, piece)
                if not layout.gates or layout.axis == axis
            )
        else:
            yield from matches(piece, name, part)


def _settle_partly_alike(search: Search) -> bool:
    """Settle tensors that hold mostly the same numbers, or the same but for a factor."""
    left: dict[str, Layout] = {}
    others = {name: search.b.arrays[name] for name in search.open_b}
    for name in search.open_a:
        if not search.by_value[name] and (PARTLY, name) not in search.tried:
            search.tried.add((PARTLY, name))
            layouts = partly_alike(search.a.arrays[name], others)
            if len(layouts) == 1:
                left[name] = layouts[0]
    wanted = [layout.name for layout in left.values()]
    sure = {name: layout for name, layout in left.items() if wanted.count(layout.name) == 1}
    for name, layout in sure.items():
        search.settle(name, layout, "values, which are alike and not equal")
    return bool(sure)


def second_names(arrays: Arrays, left: Sequence[str], settled: Sequence[str]) -> dict[str, Layout]:
    """The names of a side that are left over and hold what a settled tensor of that side holds:
    name -> that tensor, and how it becomes this one.
    """
    copies: dict[str, Layout] = {}
    for name in left:
        array = arrays[name]
        if is_constant(array):
            continue
        for original in settled:
            layouts = matches(array, original, arrays[original])
            if len(layouts) == 1 and layouts[0].is_plain:
                copies[name] = layouts[0]
                break
    return copies
