"""Masks of an attention, by the places that may be seen."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.layers.places import Place
from lockstep.diagnose.between.layers.ways import Words

__all__ = ["is_unknown", "mask_words", "masks"]

Seen = NDArray[np.bool_]

IN_EACH_HEAD = Words("masks", "other places in each head")
NO_PATTERN = "of all places, in no known pattern"
MOST_WINDOW = 64
FEW_TOKENS = 3
"""Tokens that fill up rows, as far as they are looked for: the smallest and the largest number."""


def masks(place: Place, shape: tuple[int, ...]) -> Iterator[tuple[Words, Seen]]:
    """What may be seen, (B, 1, T, S), by the masks that people write; the plainest first.

    Args:
        place: has the tokens and masks of the batch among its inputs.
        shape: of the scores, (B, heads, T, S).
    """
    examples, length, width = shape[0], shape[-2], shape[-1]
    paddings = list(_paddings(place, examples, length, width))
    for words, seen in _of_places(length, width):
        yield words, np.broadcast_to(seen, (examples, 1, length, width))
    for words, seen in _of_places(length, width):
        for padding, kept in paddings:
            joined = f"{words.what}, {padding}" if words.what != "nothing" else padding
            yield Words("masks", joined), seen & kept


def _of_places(length: int, width: int) -> Iterator[tuple[Words, Seen]]:
    i, j = np.arange(length)[:, None], np.arange(width)[None, :]
    yield Words("masks", "nothing"), np.ones((1, 1, length, width), bool)
    begin = width - length
    yield Words("masks", "the future (causal)"), (j <= i + begin)[None, None]
    yield Words("masks", "the future but one place ahead"), (j <= i + begin + 1)[None, None]
    yield Words("masks", "the future and the place itself"), (j < i + begin)[None, None]
    yield Words("masks", "the past (an inverted causal mask)"), (j >= i + begin)[None, None]
    yield (
        Words("masks", "the past and the place itself (an inverted causal mask)"),
        (j > i + begin)[None, None],
    )
    for window in range(1, min(length, MOST_WINDOW)):
        is_near = j > i + begin - window
        yield (
            Words("masks", f"the future and all but the last {window} places (a window)"),
            (is_near & (j <= i + begin))[None, None],
        )
        yield (
            Words("masks", f"places {window} or more away (a window)"),
            (is_near & (j < i + begin + window))[None, None],
        )


def _paddings(place: Place, examples: int, length: int, width: int) -> Iterator[tuple[str, Seen]]:
    """Padding by masks and tokens of the batch, (B, 1, T, S)."""
    for name, array in place.inputs.items():
        if array.ndim != 2 or array.shape[0] != examples:
            continue
        short = name.rpartition("/")[2]
        known: list[tuple[str, Seen]] = []
        if set(np.unique(array).tolist()) == {0, 1}:
            known.append((short, array == 1))
        elif array.dtype.kind in "iu":
            tokens = np.unique(array)
            for token in dict.fromkeys((0, *tokens[:FEW_TOKENS].tolist(), int(tokens[-1]))):
                is_pad = array == token
                if is_pad.any() and not is_pad.all():
                    known.append((f"token {token} of {short}", ~is_pad))
        for words, kept in known:
            if array.shape[1] == width:
                yield f"padding among keys ({words})", kept[:, None, None, :]
                yield f"all but padding among keys ({words} inverted)", ~kept[:, None, None, :]
            if array.shape[1] == length:
                yield f"padding among queries ({words}, on the wrong axis)", kept[:, None, :, None]


def mask_words(seen: Seen, place: Place) -> Words:
    """What a mask leaves out, in words."""
    if (seen != seen[:, :1]).any():
        return IN_EACH_HEAD
    for words, known in masks(place, seen.shape):
        if np.array_equal(np.broadcast_to(known, seen[:, :1].shape), seen[:, :1]):
            return words
    share = 1 - float(seen.mean())
    return Words("masks", f"{share:.1%} {NO_PATTERN}")


def is_unknown(words: Words) -> bool:
    """Whether a mask is none that people write."""
    return words == IN_EACH_HEAD or words.what.endswith(NO_PATTERN)
