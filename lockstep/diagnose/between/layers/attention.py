"""Attentions whose scores are not recorded: recomputed from queries, keys and values to what the
next recorded layer gives.

A plain attention is looked for among few heads, scales, masks and rotations. Where it gives one
side's output, the other side's is looked for among all attentions that differ from it in one
respect: another scale, mask, split of heads, sharing of keys, order of q, k and v, axis of the
softmax, rotation or joining of heads.
"""

import re
from collections.abc import Iterator

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.attention_parts import (
    LONGEST,
    Parts,
    lengths_of,
    parts_of,
    width_of,
)
from lockstep.diagnose.between.layers.attention_settings import (
    NOT_ROTATED,
    Setting,
    one_change,
    plain_settings,
)
from lockstep.diagnose.between.layers.heads import as_heads, merged
from lockstep.diagnose.between.layers.places import Place, contrast_of, gap
from lockstep.diagnose.between.layers.rotary import HALVES, PAIRS, rotated, usual_angles
from lockstep.diagnose.between.layers.scores import NO_BIAS, TOPICS, is_masked, repeated, softmax
from lockstep.diagnose.between.layers.ways import Topic, Way, Words, told_apart
from lockstep.diagnose.between.pair import LoopPair
from lockstep.oracle.arithmetic import Array

__all__ = ["attention"]

ALL_TOPICS = {
    **TOPICS,
    "order": Topic("attention-order", "attention-heads-layout"),
    "rotation": Topic("rope-pairs", "rope-halves-or-pairs"),
    "joined": Topic("attention-heads-layout", "attention-heads-layout"),
    "out": Topic("attention-projection", "attention-heads-layout"),
}


def attention(pair: LoopPair) -> Iterator[Explanation]:
    """That two attentions differ in one respect, by what the layer after them gives."""
    place = contrast_of(pair)
    if place is None or not 3 <= place.mine.ndim <= 4 or max(place.mine.shape[1:3]) > LONGEST:
        return
    for parts in parts_of(place):
        explanation = told_apart(pair, place, ALL_TOPICS, _ways(parts), "another attention")
        if explanation is not None:
            yield explanation
            return


def _ways(parts: Parts) -> Iterator[Way]:
    """The plain attentions that give either output, and what differs from them in one respect."""
    few = parts.first_examples()
    plain: list[Setting] = []
    for setting in plain_settings(few):
        if not _fits(few, setting):
            continue
        for way in _whole(parts, setting):
            if _is_near(way.array, parts.place):
                plain.append(setting)
                yield way
        if len(plain) > 1:
            break
    for base in plain:
        for setting in one_change(few, base):
            if _fits(few, setting):
                yield from _whole(parts, setting)


def _fits(parts: Parts, setting: Setting) -> bool:
    return any(_is_near(result, parts.place) for result in _computed(parts, setting))


def _is_near(array: Array, place: Place) -> bool:
    """Whether an array is an output of either side."""
    return any(gap(array, target) <= place.tolerance for target in place.targets)


def _whole(parts: Parts, setting: Setting) -> Iterator[Way]:
    """An attention of all examples."""
    knobs = setting.knobs(parts.place, width_of(parts))
    for result in _computed(parts, setting):
        yield Way(knobs, result)


def _computed(parts: Parts, setting: Setting) -> Iterator[Array]:
    """The output of an attention, laid out as the place's; nothing where the shapes forbid it."""
    length, width = lengths_of(parts)
    examples = len(parts.place.mine)
    in_heads = _in_heads(parts, setting, (examples, length, width))
    if in_heads is None:
        return
    q, k, v = in_heads
    is_seen = parts.seen.get(setting.mask)
    if is_seen is None:  # a token that all examples together hold too many beside
        return
    plain = setting.scale * (q @ k.swapaxes(-1, -2))
    axis = {"keys": -1, "queries": -2, "heads": 1}[setting.axis.what.split(" ")[0]]
    if setting.bias != NO_BIAS:
        plain = plain + _alibi(*plain.shape[1:])
    values = softmax(np.where(is_seen, plain, -np.inf), axis)
    if plain.shape == parts.place.mine.shape:
        for target in parts.place.targets:
            yield np.where(is_seen, plain, np.where(is_masked(target), target, 0.0))
    # a row that is masked whole is 0 where the mask is -inf and is mended, and uniform where it is
    # a finite number
    rows = [np.nan_to_num(values)]
    if np.isnan(values).any():
        rows.append(np.where(np.isnan(values), 1 / values.shape[axis], values))
    for weights in rows:
        yield from _led_to(parts.place, setting, weights, v)


def _led_to(place: Place, setting: Setting, weights: Array, v: Array) -> Iterator[Array]:
    """What weights (B, heads, T, S) and values lead to, laid out as the place's output."""
    shape = place.mine.shape
    if weights.shape == shape:
        yield weights
    mixed = weights @ v
    if len(shape) == 4:
        yield from (array for words, array in merged(mixed, shape) if words == setting.joined)
        return
    flat = (mixed.shape[0], mixed.shape[2], mixed.shape[1] * mixed.shape[3])
    for words, joined in merged(mixed, flat):
        if words == setting.joined:
            yield from _projected(place, setting.out, joined)


def _alibi(heads: int, length: int, width: int) -> Array:
    """The biases (heads, T, S) of ALiBi (Press et al., arXiv:2108.12409): slopes 2^(-8 h / H)."""
    slope_h = 2.0 ** (-8 * np.arange(1, heads + 1) / heads)
    distance = np.arange(width)[None, :] - np.arange(length)[:, None] - (width - length)
    return np.asarray(slope_h[:, None, None] * distance)


def _in_heads(
    parts: Parts, setting: Setting, sizes: tuple[int, int, int]
) -> tuple[Array, Array, Array] | None:
    """Queries, keys and values in heads, rotated and repeated; None where the shapes forbid it."""
    examples, length, width = sizes
    three = _ordered(parts, setting)
    if three is None:
        return None
    depth = width_of(parts) // setting.heads
    heads: list[Array] = []
    for array, places in zip(three, (length, width, width)):
        own = array.shape[-1] // depth if array.ndim == 3 else _own_heads(array, places)
        ways = [
            x for words, x in as_heads(array, (examples, own, places)) if words == setting.split
        ]
        if not own or not ways:
            return None
        heads.append(ways[0])
    q, k, v = heads
    which = setting.rotation.what
    if setting.rotation != NOT_ROTATED:
        if "keys alone" not in which:
            q = _turned(parts, q, which)
        if "queries alone" not in which:
            k = _turned(parts, k, which)
    if q.shape[1] != setting.heads or k.shape[-1] != q.shape[-1]:
        return None
    if setting.heads % k.shape[1] or setting.heads % v.shape[1]:
        return None
    shared = [dict(repeated(array, setting.heads)).get(setting.shared) for array in (k, v)]
    if shared[0] is None or shared[1] is None:
        return None
    return q, shared[0], shared[1]


def _own_heads(array: Array, places: int) -> int:
    return int(array.shape[1] if array.shape[2] == places else array.shape[2])


def _turned(parts: Parts, x: Array, which: str) -> Array:
    """Heads (B, h, T, d) rotated as the words say."""
    pairing = HALVES if which.startswith(HALVES.what) else PAIRS
    begin = 1 if "from place 1" in which else 0
    base = re.search(r"base (\S+?)(,|$)", which)
    if base is None:
        if parts.table is None or 2 * parts.table.shape[1] > x.shape[-1]:
            return x
        angles = parts.table
        if begin and len(angles) > 1:
            angles = angles + (angles[1] - angles[0])
    else:
        turn = usual_angles(2, x.shape[-1], float(base[1]))[1]
        angles = (np.arange(x.shape[2])[:, None] + begin) * turn
    return rotated(x, angles[: x.shape[2]], pairing)


def _ordered(parts: Parts, setting: Setting) -> tuple[Array, Array, Array] | None:
    """Queries, keys and values as a setting takes them out of the projections."""
    three = parts.q, parts.k, parts.v
    what = setting.order.what
    if not what.startswith("("):
        by_role = dict(zip("qkv", three))
        picked = [by_role[role] for role in what.split(", ")]
        return picked[0], picked[1], picked[2]
    if not parts.q.shape == parts.k.shape == parts.v.shape or parts.q.ndim != 3:
        return None
    packed = np.concatenate(three, axis=-1)
    depth = parts.q.shape[-1] // setting.heads
    sizes = {"heads": setting.heads, "3": 3, "d": depth}
    axes = what.strip("()").split(", ")
    blocks = packed.reshape(*packed.shape[:2], *(sizes[axis] for axis in axes))
    blocks = np.moveaxis(blocks, [2 + axes.index(a) for a in ("3", "heads", "d")], [0, 3, 4])
    flat = blocks.reshape(3, *parts.q.shape)
    return flat[0], flat[1], flat[2]


def _projected(place: Place, out: Words, joined: Array) -> Iterator[Array]:
    """What the layer makes of joined heads: itself, or its product with the layer's kernel."""
    kernels = [array for array in place.own.values() if array.ndim == 2]
    if place.layer.endswith(".input"):
        kernels = []
    if not kernels or out.what == "no output kernel":
        if joined.shape == place.mine.shape:
            yield joined
        return
    (kernel,) = kernels[:1]
    bias = next((b for b in place.own.values() if b.shape == place.mine.shape[2:]), None)
    shape = joined.shape[-1], place.mine.shape[-1]
    is_transposed = "transposed" in out.what
    for turned in (kernel.T, kernel):
        if (turned.T if is_transposed else turned).shape != shape:
            continue
        y = joined @ (turned.T if is_transposed else turned)
        yield y if bias is None or "without" in out.what else y + bias
