"""Attentions whose scores are not recorded: recomputed from queries, keys and values to what the
next recorded layer gives.

A plain attention is looked for among few heads, scales, masks and rotations. Where it gives one
side's output, the other side's is looked for among all attentions that differ from it in one
respect: another scale, mask, split of heads, sharing of keys, order of q, k and v, axis of the
softmax, rotation or joining of heads.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.heads import MERGED, PLAIN, as_heads, merged, splits
from lockstep.diagnose.between.masks import masks
from lockstep.diagnose.between.pair import LoopPair
from lockstep.diagnose.between.places import Place, gap, place_of
from lockstep.diagnose.between.rotary import BASES, HALVES, PAIRS, rotated, usual_angles
from lockstep.diagnose.between.scores import (
    NO_BIAS,
    TOPICS,
    is_masked,
    repeated,
    scale_words,
    softmax,
)
from lockstep.diagnose.between.ways import Topic, Way, Words, told_apart
from lockstep.oracle.arithmetic import Array

__all__ = ["attention"]

ROLES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q", "k", "v"),
    ("wq", "wk", "wv"),
    ("to_q", "to_k", "to_v"),
    ("q_rot", "k_rot", "v"),
    ("q_rope", "k_rope", "v"),
    ("q_lin", "k_lin", "v_lin"),
)
PACKED = re.compile(r"qkv|c_attn|in_proj|query_key_value|wqkv|wqkv|kqv")
EXAMPLES = 2
"""Examples of a batch by which the ways are told apart; the one that holds is computed for all."""
LONGEST = 512
NOT_ROTATED = Words("rotates", "nothing")
ALL_TOPICS = {
    **TOPICS,
    "order": Topic("attention-order", "attention-heads-layout"),
    "rotation": Topic("rope-pairs", "rope-halves-or-pairs"),
    "joined": Topic("attention-heads-layout", "attention-heads-layout"),
    "out": Topic("attention-projection", "attention-heads-layout"),
}
ONE_SHARE = Words("shares", "each head of keys among neighbouring heads of queries (repeat)")
LAST = Words("takes the softmax over", "keys (the last axis)")
IN_ORDER = Words("takes its projections as", "q, k, v")


@dataclass(frozen=True)
class _Setting:
    """One attention: how it is computed in each respect."""

    heads: int
    scale: float
    mask: Words
    split: Words = PLAIN
    shared: Words = ONE_SHARE
    order: Words = IN_ORDER
    axis: Words = LAST
    rotation: Words = NOT_ROTATED
    joined: Words = MERGED
    out: Words = Words("multiplies by", "its output kernel")
    bias: Words = NO_BIAS

    def knobs(self, place: Place, width: int) -> dict[str, Words]:
        """The respects in words."""
        depth = width // self.heads
        return {
            "heads": Words("has", f"{self.heads} heads"),
            "scale": scale_words(self.scale, place, depth),
            "mask": self.mask,
            "split": self.split,
            "shared": self.shared,
            "order": self.order,
            "axis": self.axis,
            "rotation": self.rotation,
            "joined": self.joined,
            "out": self.out,
            "bias": self.bias,
        }


@dataclass(frozen=True)
class _Parts:
    """What an attention is computed from: projections by role, each (B, T, E) or in heads."""

    place: Place
    q: Array
    k: Array
    v: Array
    table: Array | None
    """Angles (T, d / 2) that were recorded as their cosines; None where none were."""

    @cached_property
    def seen(self) -> dict[Words, NDArray[np.bool_]]:
        """What each mask leaves to be seen, (B, 1, T, S)."""
        return dict(masks(self.place, (len(self.place.mine), 1, *_lengths(self))))

    def first_examples(self) -> "_Parts":
        """These of the first examples alone."""
        cut = slice(EXAMPLES)
        place = self.place
        inputs = {
            name: array[cut] if array.ndim and len(array) == len(place.mine) else array
            for name, array in place.inputs.items()
        }
        cut_place = replace(place, mine=place.mine[cut], other=place.other[cut], inputs=inputs)
        return replace(self, place=cut_place, q=self.q[cut], k=self.k[cut], v=self.v[cut])


def attention(pair: LoopPair) -> Iterator[Explanation]:
    """That two attentions differ in one respect, by what the layer after them gives."""
    place = place_of(pair) if pair.mine.name == "b" else None
    if place is None or not 3 <= place.mine.ndim <= 4 or max(place.mine.shape[1:3]) > LONGEST:
        return
    for parts in _parts(place):
        explanation = told_apart(pair, place, ALL_TOPICS, _ways(parts), "another attention")
        if explanation is not None:
            yield explanation
            return


def _parts(place: Place) -> Iterator[_Parts]:
    """The queries, keys and values before the place, the nearest first."""
    floats = {
        name: array
        for name, array in place.inputs.items()
        if array.dtype.kind == "f" and array.ndim in (3, 4) and np.isfinite(array).all()
    }
    examples = len(place.mine)
    table = _recorded_table(place)
    for name, array in floats.items():
        head, _, last = name.rpartition(".")
        is_packed = PACKED.search(last) and array.ndim == 3 and array.shape[-1] % 3 == 0
        if is_packed and len(array) == examples:
            q, k, v = np.split(array, 3, axis=-1)
            yield _Parts(place, q, k, v, table)
        for roles in ROLES:
            names = [f"{head}.{role}" if head else role for role in roles]
            if last == roles[-1] and all(other in floats for other in names):
                q, k, v = (floats[other] for other in names)
                if len(q) == len(k) == len(v) == examples:
                    yield _Parts(place, q, k, v, table)


def _recorded_table(place: Place) -> Array | None:
    """The angles of a recorded table of cosines (1, T, d), as Hugging Face's rotary layer gives."""
    for name, array in place.inputs.items():
        if "rot" not in name.lower() or array.dtype.kind != "f" or array.ndim not in (2, 3):
            continue
        cosines = array.reshape(-1, *array.shape[-2:])[0]
        if np.abs(cosines).max() <= 1 and np.abs(cosines[0] - 1).max() < 1e-6:
            half = cosines.shape[-1] // 2
            turn_i = np.arccos(np.clip(cosines[1, :half], -1, 1)) if len(cosines) > 1 else 0
            angles = np.arange(len(cosines))[:, None] * turn_i
            if np.abs(np.cos(angles) - cosines[:, :half]).max() < 1e-2:
                return np.asarray(angles)
    return None


def _ways(parts: _Parts) -> Iterator[Way]:
    """The plain attentions that give either output, and what differs from them in one respect."""
    few = parts.first_examples()
    width = _width(parts)
    plain: list[_Setting] = []
    for setting in _plain_settings(few):
        for result in _computed(few, setting):
            if any(gap(result, target) <= parts.place.tolerance for target in few.place.targets):
                plain.append(setting)
                yield from _whole(parts, setting, width)
        if len(plain) > 1:
            break
    for base in plain:
        for setting in _one_change(few, base):
            for result in _computed(few, setting):
                if any(gap(result, target) <= few.place.tolerance for target in few.place.targets):
                    yield from _whole(parts, setting, width)


def _whole(parts: _Parts, setting: _Setting, width: int) -> Iterator[Way]:
    for result in _computed(parts, setting):
        yield Way(setting.knobs(parts.place, width), result)


def _width(parts: _Parts) -> int:
    """The width of all heads of queries together."""
    if parts.q.ndim == 3:
        return int(parts.q.shape[-1])
    by_layout = _heads_of(parts)
    return int(parts.q.shape[-1] * by_layout[0]) if by_layout else 0


def _heads_of(parts: _Parts) -> list[int]:
    """The numbers of heads that the shapes allow."""
    if parts.q.ndim == 4:
        length = parts.place.mine.shape[1:-1]
        others = [size for size in parts.q.shape[1:3] if size not in length[:1]]
        return others or [int(parts.q.shape[1])]
    width, of_keys = parts.q.shape[-1], parts.k.shape[-1]
    heads = [h for h in range(1, width + 1) if width % h == 0 and not of_keys % (width // h)]
    if parts.place.mine.ndim == 4:
        heads = [h for h in heads if h in parts.place.mine.shape[1:3]]
    return sorted(heads, key=lambda h: abs(np.log(width / h) - np.log(64)))


def _scales(parts: _Parts, heads: int) -> list[float]:
    """The factors of scores that people write, the usual one first."""
    width = _width(parts)
    depth = max(width // heads, 1)
    widths = [depth, width, heads, 2 * depth, depth / 2, parts.q.shape[1]]
    widths += [array.shape[-1] / heads for array in parts.place.inputs.values() if array.ndim == 3]
    scales = [1 / np.sqrt(size) for size in widths if size]
    scales += [1.0, 1 / depth, float(np.sqrt(depth)), depth**-0.25, 1 / width]
    return list(dict.fromkeys(float(scale) for scale in scales))


def _plain_settings(parts: _Parts) -> Iterator[_Setting]:
    known = list(parts.seen)
    no_mask, causal = known[:2]
    padded = [words for words in known if words.what.startswith("padding among keys")][:2]
    causal_padded = [
        words for words in known if words.what.startswith("the future (causal), padding")
    ][:2]
    rotations = [NOT_ROTATED]
    if parts.table is not None:
        rotations = [_rotation(HALVES, None), NOT_ROTATED, _rotation(PAIRS, None)]
    else:
        rotations += [_rotation(pairing, base) for base in BASES for pairing in (HALVES, PAIRS)]
    for rotation, heads in product(rotations, _heads_of(parts)):
        if rotation != NOT_ROTATED and (_width(parts) // heads) % 2:
            continue
        for scale in _scales(parts, heads)[: 2 if rotation != NOT_ROTATED else 4]:
            for mask in (causal, no_mask, *padded, *causal_padded):
                yield _Setting(heads, scale, mask, rotation=rotation)


def _one_change(parts: _Parts, base: _Setting) -> Iterator[_Setting]:
    """All attentions that differ from one in a single respect."""
    for scale in _scales(parts, base.heads):
        yield replace(base, scale=scale)
    for words in parts.seen:
        yield replace(base, mask=words)
    for words in splits():
        yield replace(base, split=words)
    for axis in ("queries (the axis before the last)", "heads"):
        yield replace(base, axis=Words("takes the softmax over", axis))
    for order in ("q, v, k", "k, q, v", "k, v, q", "v, q, k", "v, k, q"):
        yield replace(base, order=Words("takes its projections as", order))
    for order in ("(heads, 3, d)", "(heads, d, 3)", "(d, 3, heads)"):
        yield replace(base, order=Words("takes its packed projection as", order))
    yield replace(base, bias=Words("adds", "a bias by distance (ALiBi)"))
    tiled = Words("shares", "each head of keys among every g-th head of queries (tile)")
    yield replace(base, shared=tiled)
    for heads in _heads_of(parts):
        depth = _width(parts) // heads
        yield replace(base, heads=heads, scale=1 / np.sqrt(depth))
        yield replace(base, heads=heads)
    yield replace(base, rotation=NOT_ROTATED)
    for pairing in (HALVES, PAIRS):
        for which in ("", " of queries alone", " of keys alone"):
            for base_of_angles in (None, *BASES) if parts.table is not None else BASES:
                for begin in (0, 1):
                    yield replace(base, rotation=_rotation(pairing, base_of_angles, which, begin))
    if parts.place.mine.ndim == 3:
        for joined in (
            "heads without transposing: places and heads are mixed up",
            "heads as (d, heads)",
        ):
            yield replace(base, joined=Words("joins", joined))
        yield replace(base, out=Words("multiplies by", "no output kernel"))
        yield replace(base, out=Words("multiplies by", "its output kernel, without the bias"))
        yield replace(base, out=Words("multiplies by", "its output kernel transposed"))


def _rotation(pairing: Words, base: float | None, which: str = "", begin: int = 0) -> Words:
    of_base = "" if base is None else f", base {base:.10g}"
    first = f", from place {begin}" if begin else ""
    return Words("rotates", f"{pairing.what}{which}{of_base}{first}")


def _lengths(parts: _Parts) -> tuple[int, int]:
    """The places of queries and of keys."""
    if parts.q.ndim == 3:
        return parts.q.shape[1], parts.k.shape[1]
    axis = 1 if parts.q.shape[1] == parts.place.mine.shape[1] and parts.place.mine.ndim == 3 else 2
    return parts.q.shape[axis], parts.k.shape[axis]


def _computed(parts: _Parts, setting: _Setting) -> Iterator[Array]:
    """The output of an attention, laid out as the place's; nothing where the shapes forbid it."""
    length, width = _lengths(parts)
    examples = len(parts.place.mine)
    in_heads = _in_heads(parts, setting, (examples, length, width))
    if in_heads is None:
        return
    q, k, v = in_heads
    seen = parts.seen[setting.mask]
    plain = setting.scale * (q @ k.swapaxes(-1, -2))
    axis = {"keys": -1, "queries": -2, "heads": 1}[setting.axis.what.split(" ")[0]]
    if setting.bias != NO_BIAS:
        plain = plain + _alibi(*plain.shape[1:])
    values = softmax(np.where(seen, plain, -np.inf), axis)
    if plain.shape == parts.place.mine.shape:
        for target in parts.place.targets:
            yield np.where(seen, plain, np.where(is_masked(target), target, 0.0))
    # a row that is masked whole is 0 where the mask is -inf and is mended, and uniform where it is
    # a finite number
    rows = [np.nan_to_num(values)]
    if np.isnan(values).any():
        rows.append(np.where(np.isnan(values), 1 / values.shape[axis], values))
    for weights in rows:
        yield from _led_to(parts.place, setting, weights, v)


def _led_to(place: Place, setting: _Setting, weights: Array, v: Array) -> Iterator[Array]:
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
    parts: _Parts, setting: _Setting, sizes: tuple[int, int, int]
) -> tuple[Array, Array, Array] | None:
    """Queries, keys and values in heads, rotated and repeated; None where the shapes forbid it."""
    examples, length, width = sizes
    three = _ordered(parts, setting)
    if three is None:
        return None
    depth = _width(parts) // setting.heads
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


def _turned(parts: _Parts, x: Array, which: str) -> Array:
    """Heads (B, h, T, d) rotated as the words say."""
    pairing = HALVES if which.startswith(HALVES.what) else PAIRS
    begin = 1 if "from place 1" in which else 0
    told = re.search(r"base (\S+?)(,|$)", which)
    if told is None:
        if parts.table is None or 2 * parts.table.shape[1] > x.shape[-1]:
            return x
        angles = parts.table
        if begin and len(angles) > 1:
            angles = angles + (angles[1] - angles[0])
    else:
        turn = usual_angles(2, x.shape[-1], float(told[1]))[1]
        angles = (np.arange(x.shape[2])[:, None] + begin) * turn
    return rotated(x, angles[: x.shape[2]], pairing)


def _ordered(parts: _Parts, setting: _Setting) -> tuple[Array, Array, Array] | None:
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
