"""Rows that tokens and places take out of a table, in the ways that people number them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.layers.places import Place
from lockstep.oracle.arithmetic import Array

__all__ = ["lookups"]

OFFSETS = (0, 1, 2, 3, -1)
"""Rows by which a table of places is shifted: 2 in OPT and BART, padding_idx + 1 in RoBERTa."""
MOST_TABLES = 8
BASES = (1e4,)
Index = NDArray[np.int64]


def lookups(place: Place) -> Iterator[tuple[str, str, Array]]:
    """The table, what is taken out of it in words, and the rows, which spread to the output.

    Own tables of the layer come first, and tokens before places.
    """
    width = place.mine.shape[-1]
    tables = {
        name: table
        for name, table in place.parameters.items()
        if table.ndim == 2 and table.shape[1] == width
    }
    own = {name: table for name, table in tables.items() if _is_own(table, place)}
    for name, table in list((own or tables).items())[:MOST_TABLES]:
        yield from _of_tokens(place, name, table)
        yield from _of_places(place, name, table)
    if place.mine.ndim > 1:
        yield from _of_waves(place.mine.shape[-2], width)


def _is_own(table: Array, place: Place) -> bool:
    return any(table is other for other in place.own.values())


def _of_tokens(place: Place, name: str, table: Array) -> Iterator[tuple[str, str, Array]]:
    """The rows of tokens; of those beyond the table clipped or wrapped; those of padding as 0."""
    rows = len(table)
    tried: set[bytes] = set()
    for source, ids in place.integers():
        if ids.shape != place.mine.shape[:-1] or ids.dtype.kind == "b":
            continue
        if ids.tobytes() in tried:
            continue
        tried.add(ids.tobytes())
        whole = ids.astype(np.int64)
        words = f"rows of {name} by {source.rpartition('/')[2]}"
        if whole.min() >= 0 and whole.max() < rows:
            yield name, words, table[whole]
            for token in _zeroed(place, whole):
                is_other = (whole != token)[..., None]
                yield name, f"{words}, those of token {token} as 0", table[whole] * is_other
        else:
            yield name, f"{words}, clipped to the table", table[np.clip(whole, 0, rows - 1)]
            yield name, f"{words}, wrapped around the table", table[whole % rows]
            outside = (whole < 0) | (whole >= rows)
            inside = table[np.clip(whole, 0, rows - 1)] * ~outside[..., None]
            yield name, f"{words}, 0 for those outside of the table", inside
        for offset in (1, -1):
            moved = whole + offset
            if moved.min() >= 0 and moved.max() < rows:
                yield name, f"{words} {offset:+d}", table[moved]


def _zeroed(place: Place, ids: Index) -> Iterator[int]:
    """The tokens whose rows are 0 on a side, and those that padding usually is."""
    usual = [token for token in (0, 1) if (ids == token).any() and not (ids == token).all()]
    yield from usual
    for target in place.targets:
        is_zero = (target == 0).all(axis=-1)
        if is_zero.any() and not is_zero.all():
            tokens = np.unique(ids[is_zero])
            if len(tokens) == 1 and int(tokens[0]) not in usual:
                yield int(tokens[0])


def _of_places(place: Place, name: str, table: Array) -> Iterator[tuple[str, str, Array]]:
    """The rows of the places, from a first row on, and by places counted without padding."""
    length = place.mine.shape[-2]
    for offset in OFFSETS:
        if offset >= 0 and offset + length <= len(table):
            words = f"rows of {name} by place, from row {offset} on"
            yield name, words, table[offset : offset + length]
    if len(table) <= 8:
        yield name, f"row 0 of {name} everywhere", table[:1][None]
    for source, mask in place.integers():
        if mask.shape != place.mine.shape[:-1] or mask.ndim != 2:
            continue
        values = set(np.unique(mask).tolist())
        is_token = mask == 1 if values == {0, 1} else mask != 0
        if is_token.all():
            is_token = mask != 1
        if is_token.all() or not is_token.any():
            continue
        counted = np.cumsum(is_token, axis=1)
        for offset in (-1, 0, 1):
            index = np.where(is_token, counted + offset, max(offset, 0))
            if index.min() >= 0 and index.max() < len(table):
                short = source.rpartition("/")[2]
                words = f"rows of {name} by place without padding ({short}), from {offset + 1} on"
                yield name, words, table[index]


def _of_waves(length: int, width: int) -> Iterator[tuple[str, str, Array]]:
    """Sines and cosines of places (Vaswani et al., arXiv:1706.03762, section 3.5), as people lay
    them out.
    """
    if width % 2:
        return
    half = width // 2
    steps = {"i / (d / 2)": np.arange(half) / half}
    if half > 1:
        steps["i / (d / 2 - 1)"] = np.arange(half) / (half - 1)
    for begin in (0, 1):
        for base in BASES:
            for words, step in steps.items():
                angle = (np.arange(length) + begin)[:, None] * base**-step
                sine, cosine = np.sin(angle), np.cos(angle)
                layouts = {
                    "sines and cosines in turn": np.stack([sine, cosine], -1).reshape(length, -1),
                    "cosines and sines in turn": np.stack([cosine, sine], -1).reshape(length, -1),
                    "sines, then cosines": np.concatenate([sine, cosine], -1),
                    "cosines, then sines": np.concatenate([cosine, sine], -1),
                }
                for layout, rows in layouts.items():
                    first = f", from place {begin}" if begin else ""
                    by = "" if words == "i / (d / 2)" else f", of powers {words}"
                    yield "waves", f"{layout}{first}{by}", rows
