"""The attentions that people write: the plain ones, and what may differ from one in one respect."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from lockstep.diagnose.between.layers.attention_parts import Parts, heads_of, width_of
from lockstep.diagnose.between.layers.heads import MERGED, PLAIN, splits
from lockstep.diagnose.between.layers.places import Place
from lockstep.diagnose.between.layers.rotary import BASES, HALVES, PAIRS
from lockstep.diagnose.between.layers.scores import NO_BIAS, scale_words
from lockstep.diagnose.between.layers.ways import Words

__all__ = ["NOT_ROTATED", "Setting", "one_change", "plain_settings"]

NOT_ROTATED = Words("rotates", "nothing")
ONE_SHARE = Words("shares", "each head of keys among neighbouring heads of queries (repeat)")
LAST = Words("takes the softmax over", "keys (the last axis)")
PROJECTED = Words("multiplies by", "its output kernel")
IN_ORDER = Words("takes its projections as", "q, k, v")


@dataclass(frozen=True)
class Setting:
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
    out: Words = PROJECTED
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


def _scales(parts: Parts, heads: int) -> list[float]:
    """The factors of scores that people write, the usual one first."""
    width = width_of(parts)
    depth = max(width // heads, 1)
    widths = [depth, width, heads, 2 * depth, depth / 2, parts.q.shape[1]]
    widths += [array.shape[-1] / heads for array in parts.place.inputs.values() if array.ndim == 3]
    scales = [1 / np.sqrt(size) for size in widths if size]
    scales += [1.0, 1 / depth, float(np.sqrt(depth)), depth**-0.25, 1 / width]
    return list(dict.fromkeys(float(scale) for scale in scales))


def plain_settings(parts: Parts) -> Iterator[Setting]:
    """The attentions that are looked for first, the usual ones before the others."""
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
    for rotation, heads in product(rotations, heads_of(parts)):
        if rotation != NOT_ROTATED and (width_of(parts) // heads) % 2:
            continue
        for scale in _scales(parts, heads)[: 2 if rotation != NOT_ROTATED else 4]:
            for mask in (causal, no_mask, *padded, *causal_padded):
                yield Setting(heads, scale, mask, rotation=rotation)


def one_change(parts: Parts, base: Setting) -> Iterator[Setting]:
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
    for heads in heads_of(parts):
        depth = width_of(parts) // heads
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
