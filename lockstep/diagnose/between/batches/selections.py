"""What rows one loop is fed, beside the other's: their order, number and place in the data."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.batches.arrays import (
    batch_of,
    is_labels,
    keys_of,
    noun,
    row_arrays,
    unit_of_batch,
)
from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import Arrays, LoopPair

__all__ = ["other_rows", "other_selection", "reordered"]

FEWEST = 3
"""Rows that must agree to tell an order or a shift."""
LEAST_ELEMENTS = 30
"""Elements that must be unrelated to tell that rows are others."""
UNRELATED = 5.0
"""Standard errors within which a correlation is none."""
MOST_UPDATES = 64
ORDER_PAGE = "rows-in-another-order"
ROWS_PAGE = "first-rows-only"

Values = Mapping[str, NDArray[Any]]


def _coarse(mine: Values, other: Values, names: Sequence[str]) -> dict[str, Any]:
    """The coarser dtype of both sides of each array."""
    return {
        name: min(mine[name].dtype, other[name].dtype, key=lambda dtype: dtype.itemsize)
        if mine[name].dtype.kind == other[name].dtype.kind
        else np.dtype(np.float64)
        for name in names
    }


def _dtypes(pair: LoopPair, mine: Values, other: Values, names: Sequence[str]) -> dict[str, Any]:
    """The coarsest dtype in which each array was recorded."""
    coarse = _coarse(mine, other, names)
    for name in names:
        if coarse[name].kind == "f" and unit_of_batch(pair, name) >= 2.0**-24:
            coarse[name] = np.dtype(np.float32)
    return coarse


def reordered(pair: LoopPair) -> Iterator[Explanation]:
    """That a side is fed the same rows in another order, or its labels beside other rows."""
    mine, other = batch_of(pair.mine, pair.update), batch_of(pair.other, pair.update)
    names = row_arrays(mine, other)
    differing = [name for name in pair.differing("batch") if name in names]
    if not differing or len(mine[differing[0]]) != len(other[differing[0]]):
        return
    coarse = _dtypes(pair, mine, other, names)
    # all arrays together: rows as they belong together; else those that differ alone
    for group, is_apart in ((names, False), (differing, len(differing) < len(names))):
        keys = keys_of(mine, group, coarse), keys_of(other, group, coarse)
        if Counter(keys[0]) != Counter(keys[1]) or len(set(keys[0])) < 2:
            continue
        if is_apart and not _tells_order(keys[0]):
            continue
        predicted = {name: mine[name] for name in differing}
        text = _order_text(pair, keys[0], keys[1], _words(mine, group) if is_apart else "")
        yield Explanation("other-order", text, _wide(predicted), "the same rows", ORDER_PAGE)
        return


def _tells_order(keys: Sequence[bytes]) -> bool:
    """Whether rows are so many and so different that equal counts of them are no chance."""
    return len(keys) >= 2 * FEWEST


def _words(arrays: Values, names: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(noun(name, arrays[name]) for name in names))


def _order_text(pair: LoopPair, mine: list[bytes], other: list[bytes], apart: str) -> str:
    """How the order differs: shifted in a circle, reversed, sorted, or shuffled."""
    rows = len(mine)
    how = "in another order"
    for shift in range(1, rows):
        if mine == other[shift:] + other[:shift]:
            least = min(shift, rows - shift)
            word = "earlier" if shift <= rows - shift else "later"
            how = f"{least} {'row' if least == 1 else 'rows'} {word}, in a circle"
            break
    if mine == other[::-1]:
        how = "in reverse order"
    a, b = pair.mine.name, pair.other.name
    if apart:
        return (
            f"{a}'s {apart} are {b}'s {how}, beside rows that are the same: they no longer belong "
            "to their rows"
        )
    return f"{a} is fed the same {rows} rows as {b}, {how}"


def _wide(arrays: Values) -> Arrays:
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def other_selection(pair: LoopPair) -> Iterator[Explanation]:
    """That a side is fed some of the other's rows, or more than these, or those of another place
    in the data.
    """
    mine, other = batch_of(pair.mine, pair.update), batch_of(pair.other, pair.update)
    names = row_arrays(mine, other)
    if not names or not _has_floats(mine, names):
        return
    coarse = _dtypes(pair, mine, other, names)
    keys, others = keys_of(mine, names, coarse), keys_of(other, names, coarse)
    predicted = _wide({name: mine[name] for name in names})
    if len(keys) < len(others):
        text = _part_text(pair, keys, others)
        if text:
            yield Explanation("other-rows", text, predicted, "a part of the rows", ROWS_PAGE)
        return
    if len(keys) == len(others):
        text = _stream_text(pair, names, coarse, keys, others)
        if text:
            key = "other-rows"
            yield Explanation(
                key, text, predicted, "rows of another place", "rows-in-another-order"
            )


def _has_floats(arrays: Values, names: Sequence[str]) -> bool:
    """Whether rows can be told from each other: by numbers, or by several whole ones."""
    return any(arrays[name].dtype.kind == "f" or arrays[name][0].size >= FEWEST for name in names)


def _part_text(pair: LoopPair, keys: list[bytes], others: list[bytes]) -> str:
    """Which of the other's rows these are; "" where they are others. The side with more rows may
    repeat some, or fill up with zeros.
    """
    count, total = len(keys), len(others)
    few, many = pair.mine.name, pair.other.name
    if keys == others[:count]:
        rest = others[count:]
        if all(key in keys for key in rest):
            return (
                f"{many} fills its {count} rows up to {total} by repeating some of them; {few} is "
                f"fed the {count} alone"
            )
        if len(set(rest)) == 1 and not any(rest[0].replace(b"|", b"")):
            return f"{many} fills its {count} rows up to {total} with zeros; {few} does not"
        return f"{few} is fed the first {count} of {many}'s {total} rows"
    if keys == others[-count:]:
        return f"{few} is fed the last {count} of {many}'s {total} rows"
    for step in range(2, total // count + 2):
        for start in range(step):
            if keys == others[start::step]:
                words = f"every {_ordinal(step)} of {many}'s {total} rows, from row {start} on"
                return f"{few} is fed {words}"
    place = _run(keys, others)
    if place >= 0:
        return f"{few} is fed {count} of {many}'s {total} rows, from row {place} on"
    if not Counter(keys) - Counter(others):
        return f"{few} is fed {count} of {many}'s {total} rows, in an order of its own"
    return ""


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _run(keys: list[bytes], others: list[bytes]) -> int:
    """Where the keys stand in one piece among the others; -1 where they do not."""
    for place in range(len(others) - len(keys) + 1):
        if others[place : place + len(keys)] == keys:
            return place
    return -1


def _stream_text(
    pair: LoopPair,
    names: Sequence[str],
    coarse: Mapping[str, Any],
    keys: list[bytes],
    others: list[bytes],
) -> str:
    """That these rows stand elsewhere among those that the other is fed over all updates."""
    stream, begin, updates = _stream(pair, names, coarse)
    rows = len(keys)
    for shift in range(1, rows):
        for sign in (1, -1):
            at = begin + sign * shift
            inside = range(max(at, 0), min(at + rows, len(stream)))
            same = all(stream[place] == keys[place - at] for place in inside)
            if same and len(inside) >= max(FEWEST, rows // 2) and keys != others:
                word = "later" if sign > 0 else "earlier"
                count = f"{shift} {'row' if shift == 1 else 'rows'}"
                return (
                    f"{pair.mine.name}'s batch begins {count} {word} in the data than "
                    f"{pair.other.name}'s"
                )
    for update, place in updates.items():
        if update != pair.update and stream[place : place + rows] == keys:
            gap = update - pair.update
            word = "later" if gap > 0 else "earlier"
            count = f"{abs(gap)} {'batch' if abs(gap) == 1 else 'batches'}"
            return (
                f"{pair.mine.name} is fed the rows of {pair.other.name}'s update {update}: {count} "
                f"{word}"
            )
    known = set(stream)
    shared = sum(key in known for key in keys)
    if shared == rows and Counter(keys) != Counter(others):
        return (
            f"{pair.mine.name} is fed rows that {pair.other.name} is fed at other updates: the "
            "data are in another order"
        )
    return ""


def _stream(
    pair: LoopPair, names: Sequence[str], coarse: Mapping[str, Any]
) -> tuple[list[bytes], int, dict[int, int]]:
    """All rows of the other side, one update after another; where the rows of the pair's update
    begin; and where those of each update do.
    """
    stream: list[bytes] = []
    places: dict[int, int] = {}
    recorded = [int(update) for update in pair.other.trace.header.get("detail", [])]
    for update in recorded[:MOST_UPDATES]:
        batch = batch_of(pair.other, update)
        if all(name in batch for name in names):
            places[update] = len(stream)
            stream += keys_of(batch, names, coarse)
    return stream, places.get(pair.update, 0), places


def other_rows(pair: LoopPair) -> Iterator[Explanation]:
    """That a side is fed rows that have nothing to do with the other's."""
    mine, other = batch_of(pair.mine, pair.update), batch_of(pair.other, pair.update)
    names = row_arrays(mine, other)
    differing = [name for name in pair.differing("batch") if name in names]
    features = [name for name in differing if mine[name].dtype.kind == "f"]
    if not features or len(mine[features[0]]) != len(other[features[0]]):
        return
    labels = [name for name in names if is_labels(name, mine[name])]
    if any(np.array_equal(mine[name], other[name]) for name in labels):
        return  # the same rows with other features
    for name in features:
        if not _are_unrelated(mine[name], other[name]):
            return
    rows = len(mine[features[0]])
    text = (
        f"{pair.mine.name} is fed other rows than {pair.other.name}: none of its {rows} rows is "
        "among them, and they do not hang together"
    )
    predicted = _wide({name: mine[name] for name in differing})
    yield Explanation("other-rows", text, predicted, "other rows", "rows-in-another-order")


def _are_unrelated(mine: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether no row of mine is one of the other's, and values are not correlated."""
    x = mine.reshape(len(mine), -1).astype(np.float64)
    y = other.reshape(len(other), -1).astype(np.float64)
    if x.size < LEAST_ELEMENTS or {row.tobytes() for row in x} & {row.tobytes() for row in y}:
        return False
    x = x - x.mean(axis=0)
    y = y - y.mean(axis=0)
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not size or not np.isfinite(size):
        return False
    freedom = max(x.size - x.shape[1], 1)
    # neighbouring pixels hang together: as many independent numbers as rows at least
    limit = UNRELATED / np.sqrt(min(freedom, 4 * len(x)))
    return bool(abs(float((x * y).sum())) / size < min(limit, 0.5))
