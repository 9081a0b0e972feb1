"""The heads of an attention: how arrays of queries, keys and values are split and put together."""

from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.between.layers.ways import Words
from lockstep.oracle.arithmetic import Array

__all__ = ["MERGED", "PLAIN", "as_heads", "merged", "split", "splits"]

PLAIN = Words("splits", "heads as (heads, d)")
TURNED = Words("splits", "heads as (d, heads)")
UNTURNED = Words("splits", "heads without the axis of places before them: reshaped, not transposed")
MERGED = Words("joins", "heads as (heads, d)")
MERGED_TURNED = Words("joins", "heads as (d, heads)")
MERGED_WHOLE = Words("joins", "heads without transposing: places and heads are mixed up")


def split(array: Array, heads: int, words: Words) -> Array:
    """An array (B, T, E) as (B, heads, T, E / heads)."""
    examples, length, width = array.shape
    depth = width // heads
    if words == TURNED:
        return array.reshape(examples, length, depth, heads).transpose(0, 3, 1, 2)
    if words == UNTURNED:
        return array.reshape(examples, heads, length, depth)
    return array.reshape(examples, length, heads, depth).transpose(0, 2, 1, 3)


def splits() -> tuple[Words, ...]:
    """The ways to split, the right one first."""
    return PLAIN, TURNED, UNTURNED


def as_heads(array: Array, shape: tuple[int, int, int]) -> Iterator[tuple[Words, Array]]:
    """An array as (B, heads, T, d), in every way that its shape allows.

    Args:
        array: (B, T, E), (B, heads, T, d) or (B, T, heads, d).
        shape: B, heads and T; d follows.
    """
    examples, heads, length = shape
    if array.ndim == 4 and array.shape[:3] == shape:
        yield PLAIN, array
    if array.ndim == 4 and array.shape[:3] == (examples, length, heads):
        yield PLAIN, array.swapaxes(1, 2)
    if array.ndim == 3 and array.shape[:2] == (examples, length) and not array.shape[2] % heads:
        for words in splits():
            yield words, split(array, heads, words)


def merged(array: Array, shape: tuple[int, ...]) -> Iterator[tuple[Words, Array]]:
    """An array (B, heads, T, d) laid out in another shape, in every way that people write."""
    examples, heads, length, depth = array.shape
    if shape == array.shape:
        yield MERGED, array
    if shape == (examples, length, heads, depth):
        yield MERGED, array.swapaxes(1, 2)
    if shape == (examples, length, heads * depth):
        yield MERGED, array.transpose(0, 2, 1, 3).reshape(shape)
        yield MERGED_WHOLE, np.ascontiguousarray(array).reshape(shape)
        yield MERGED_TURNED, array.transpose(0, 2, 3, 1).reshape(shape)
