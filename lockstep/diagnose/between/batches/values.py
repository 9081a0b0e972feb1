"""How the values of one loop's batch follow from the other's, row by row: renumbered labels,
features scaled, shifted, rounded, flipped or padded otherwise.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.batches.arrays import batch_of, is_labels, noun
from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import LoopPair

__all__ = ["renumbered"]

MOST_CLASSES = 2**16
REPEATS = 4
"""Labels, beyond the first of each class, that must agree with a renumbering."""
NAMED = 5
"""Classes in a text; more are left out."""
FEW_CHANGED = 2
PAGE = "label-order-as-text"

Ints = NDArray[np.int64]


def renumbered(pair: LoopPair) -> Iterator[Explanation]:
    """That whole numbers of a batch are the other's under another numbering."""
    mine, other = batch_of(pair.mine, pair.update), batch_of(pair.other, pair.update)
    differing = pair.differing("batch")
    for name in differing:
        if mine[name].dtype.kind != "i" or other[name].dtype.kind != "i":
            continue
        table = _table(pair, name)
        if table is None:
            continue
        text, key, page = _text(pair, name, mine[name], table)
        predicted = {name: np.vectorize(table.get, otypes=[np.float64])(other[name])}
        yield Explanation(
            key, text, predicted, "other numbers for the labels", page, is_part=len(differing) > 1
        )


def _table(pair: LoopPair, name: str) -> dict[int, int] | None:
    """The other's number -> mine, at all recorded updates whose other arrays agree; None where
    there is no such table, or where so few values are repeated that any two arrays have one.
    """
    table: dict[int, int] = {}
    repeats = 0
    for update in [int(update) for update in pair.mine.trace.header.get("detail", [])]:
        mine, other = batch_of(pair.mine, update), batch_of(pair.other, update)
        if name not in mine or name not in other or mine[name].shape != other[name].shape:
            continue
        if update != pair.update and not _agree(mine, other, name):
            continue
        for here, there in zip(mine[name].ravel().tolist(), other[name].ravel().tolist()):
            if table.setdefault(there, here) != here:
                if update == pair.update:
                    return None
                break
            repeats += 1
    repeats -= len(table)
    changed = [there for there, here in table.items() if there != here]
    is_offset = len({here - there for there, here in table.items()}) == 1
    is_enough = repeats >= max(REPEATS, len(table)) or (is_offset and len(table) >= REPEATS)
    is_enough = is_enough and len(table) <= MOST_CLASSES
    return table if changed and is_enough else None


def _agree(mine: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]], name: str) -> bool:
    """Whether the rest of two batches is one."""
    rest = [key for key in mine if key != name and key in other]
    return bool(rest) and all(
        mine[key].shape == other[key].shape and np.allclose(mine[key], other[key], atol=1e-6)
        for key in rest
    )


def _text(
    pair: LoopPair, name: str, array: NDArray[Any], table: Mapping[int, int]
) -> tuple[str, str, str]:
    """The sentence, key and page of a renumbering."""
    a, b = pair.mine.name, pair.other.name
    what = noun(name, array)
    changed = {there: here for there, here in table.items() if there != here}
    offsets = {here - there for there, here in table.items() if there >= 0}
    if len(offsets) == 1 and 0 not in offsets and len(table) > 1:
        (offset,) = offsets
        more = "plus" if offset > 0 else "minus"
        text = f"{a}'s {what} are {b}'s {more} {abs(offset)}"
        if abs(offset) == 1 and is_labels(name, array):
            first, second = (1, 0) if offset > 0 else (0, 1)
            least = min(table)
            if offset < 0 or least == 0:
                text += f": counted from {first}, not from {second}"
        return text, "labels-offset", PAGE
    is_one_to_one = len(set(table.values())) == len(table)
    if (len(changed) <= FEW_CHANGED and not is_one_to_one) or _is_sign(changed):
        replaced = ", ".join(f"{here} where {b} has {there}" for there, here in changed.items())
        return f"{a}'s {what} have {replaced}; all others are equal", "labels-replaced", ""
    if not is_one_to_one:
        return f"{a}'s {what} are {b}'s, several put into one", "labels-merged", ""
    order = _text_order(pair, table)
    if order is not None:
        who, words = order
        whose, others = (a, b) if who == a else (b, a)
        return (
            f"{whose}'s {what} are {others}'s renumbered one to one: the order of {words} as text",
            "labels-renumbered",
            PAGE,
        )
    least, most = min(table), max(table)
    if all(here == least + most - there for there, here in table.items()):
        return f"{a}'s {what} are {b}'s in reverse order", "labels-renumbered", PAGE
    pairs = [f"{there} is {here}" for there, here in sorted(changed.items())]
    more = ", ..." if len(pairs) > NAMED else ""
    text = f"{a}'s {what} are {b}'s renumbered one to one: {', '.join(pairs[:NAMED])}{more}"
    return text, "labels-renumbered", PAGE


def _is_sign(changed: Mapping[int, int]) -> bool:
    """Whether one value alone was changed, into one that no class has, or from one."""
    return len(changed) == 1 and min(*changed, *changed.values()) < 0


def _text_order(pair: LoopPair, table: Mapping[int, int]) -> tuple[str, str] | None:
    """Who numbers its classes in the order of text, and how that begins; None where nobody does."""
    forward = {there: here for there, here in table.items() if there >= 0}
    backward = {here: there for there, here in forward.items()}
    for who, numbering in ((pair.mine.name, forward), (pair.other.name, backward)):
        least = max(*numbering, *numbering.values()) + 1
        for classes in _class_counts(pair, least):
            for start in (0, 1):
                names = sorted(range(start, start + classes), key=str)
                ranks = {label - start: rank for rank, label in enumerate(names)}
                is_same = all(ranks.get(there) == here for there, here in numbering.items())
                if is_same and names != sorted(names):
                    return who, ", ".join(map(str, names[:NAMED])) + ", ..."
    return None


def _class_counts(pair: LoopPair, least: int) -> Iterator[int]:
    """The numbers of classes that there may be: as many as the outputs, or as labels show."""
    outputs = pair.mine.tensors("forward", pair.update)
    for layer in reversed([layer for layer in pair.mine.layers if layer in outputs]):
        width = outputs[layer].shape[-1] if outputs[layer].ndim else 0
        if width >= least:
            yield int(width)
            break
    yield from range(least, least + 10)
