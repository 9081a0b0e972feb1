"""Rotary position embeddings: which numbers are rotated together, and by which angles.

A rotation turns pairs (x1, x2) of a head, at place t, by the angle t / base^(2i / d) (Su et al.,
arXiv:2104.09864). From what was rotated and what came out, the angle of each place and pair is
measured over all examples and heads. A wrong pairing gives no rotation, and the angles give the
base, the first place and the sense.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.layers.heads import PLAIN, as_heads
from lockstep.diagnose.between.layers.places import Place, contrast_of, gap
from lockstep.diagnose.between.layers.ways import Topic, Way, Words, told_apart
from lockstep.diagnose.between.pair import Arrays, LoopPair
from lockstep.diagnose.local.difference import likely
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array

__all__ = ["HALVES", "PAIRS", "frequencies", "rotary", "rotated", "rotations", "usual_angles"]

IDEA = "another rotary embedding"
FREQUENCIES = "inv_freq"
HALVES = Words("rotates", "the halves (i, i + d/2)")
PAIRS = Words("rotates", "pairs (2i, 2i + 1)")
NOT_ROTATED = Words("rotates", "nothing")
TOPICS = {
    "pairs": Topic("rope-pairs", "rope-halves-or-pairs"),
    "part": Topic("rope-part", "rope-halves-or-pairs"),
    "base": Topic("rope-base", "rope-base-and-position"),
    "scale": Topic("rope-scaled", "rope-base-and-position"),
    "from": Topic("rope-position", "rope-base-and-position"),
    "sense": Topic("rope-sense", "rope-base-and-position"),
}
BASES = (1e4, 5e5, 1e6, 1e5, 1e7)
"""Bases that models are published with: of RoFormer and Llama, Llama 3, Qwen, and others."""
NO_BASE = "angles of no one base"
LEAST_ANGLE = 1e-6
FIRST_PLACES = 64
"""Places before the first of a sequence, or after it, that are looked for."""
ROUND = 3e-3
"""Relative distance from a number of few digits that the precision of angles leaves."""


class _Angles(NamedTuple):
    """The angles by which pairs were turned: `turn_i` from place to place, `first_i` at the first
    place, in radians.
    """

    pairing: Words
    depth: int
    turn_i: Array
    first_i: Array


def rotary(pair: LoopPair) -> Iterator[Explanation]:
    """That the two sides rotate other pairs, or by other angles."""
    place = contrast_of(pair)
    if place is None or place.mine.ndim < 3:
        return
    if not place.is_finite:
        return
    explanation = told_apart(pair, place, TOPICS, _ways(place), IDEA)
    if explanation is None:
        explanation = told_apart(pair, place, TOPICS, _unrotated(place), IDEA)
    if explanation is None:
        return
    if explanation.key == TOPICS["pairs"].key and NOT_ROTATED.what not in explanation.text:
        text = f"{explanation.text}: a permutation within each head leads from one to the other"
        explanation = explanation._replace(text=text)
    yield explanation


def frequencies(pair: LoopPair) -> Iterator[Explanation]:
    """That the two sides keep other angles per place, as Hugging Face's buffer inv_freq holds."""
    if pair.mine.name != "b":
        return
    words: list[dict[str, str]] = []
    arrays: Arrays = {}
    for name in pair.differing("init"):
        if FREQUENCIES not in name:
            return
        mine, other = (side.tensors("init", 0)[name] for side in (pair.mine, pair.other))
        if mine.ndim != 1 or len(mine) < 2 or (mine <= 0).any() or (other <= 0).any():
            return
        words.append({"b": _base_words(mine), "a": _base_words(other)})
        arrays[name] = mine
    if not words or words[0]["a"] == words[0]["b"]:
        return
    text = f"b's {next(iter(arrays))} has {words[0]['b']}, a's {words[0]['a']}"
    yield Explanation("rope-base", text, arrays, IDEA, TOPICS["base"].page)


def _base_words(turn_i: Array) -> str:
    """The angles from place to place in words: their base, and by how much places are divided."""
    factor, base = _base_of(turn_i)
    count = len(turn_i)
    fitted = factor * base ** -(np.arange(count) / count)
    if not (np.abs(turn_i / fitted - 1) < 3 * ROUND).all():
        first, last = number(float(turn_i[0]), 3), number(float(turn_i[-1]), 3)
        return f"{NO_BASE}, from {first} to {last} a place"
    slower = "" if factor == 1 else f" with places divided by {number(1 / factor)}"
    return f"the base {base:.10g}{slower}"


def _base_of(sizes: Array) -> tuple[float, float]:
    """The factor and the base of angles factor base^(-i / n), as somebody would write them."""
    count = len(sizes)
    factor = likely(float(sizes[0]), ROUND / 3 * float(sizes[0]))
    if count == 1:
        return factor, 1e4
    power = -np.polyfit(np.arange(count), np.log(sizes), 1)[0] * count
    return factor, likely(float(np.exp(power)), ROUND / 3 * float(np.exp(power)))


def _ways(place: Place) -> Iterator[Way]:
    """The rotations of each input that give either output."""
    for _, x in place.floats():
        for layout, given in _given(x, place.mine):
            for target in place.targets:
                y = layout(target)
                for words, result in rotations(given, y):
                    yield Way(words, layout(result))
                    yield Way({**words, "pairs": NOT_ROTATED}, layout(given))


def _unrotated(place: Place) -> Iterator[Way]:
    """The same where what was rotated was not recorded: it is the other side's, turned back by one
    of the usual bases.
    """
    for layout, other in _given(place.other, place.other):
        if other.shape[-1] % 2:
            continue
        for base, pairing in product(BASES, (HALVES, PAIRS)):
            angles = usual_angles(other.shape[-2], other.shape[-1], base)
            before = rotated(other, -angles, pairing)
            both = [
                (words, result)
                for words, result in rotations(before, layout(place.mine))
                if words["base"].what != NO_BASE
            ]
            for words, result in both:
                yield Way(words, layout(result))
            if both:
                yield Way(_words(pairing, None, base, 1.0, 0, 1.0), place.other)
                return


def _given(x: Array, target: Array) -> "Iterator[tuple[_Layout, Array]]":
    """An input as (B, heads, T, d), beside the layout that leads there from the target."""
    if target.ndim == 4:
        for is_swapped in (False, True):
            layout = _Layout(is_swapped)
            shape = layout(target).shape
            for words, given in as_heads(x, shape[:3]):
                if words == PLAIN and given.shape == shape:
                    yield layout, given
    elif target.shape == x.shape:
        yield _Layout(False), x


class _Layout(NamedTuple):
    """Whether an array is (B, T, heads, d), to be turned to (B, heads, T, d) and back."""

    is_swapped: bool

    def __call__(self, array: Array) -> Array:
        return array.swapaxes(1, 2) if self.is_swapped else array


def rotations(x: Array, y: Array) -> Iterator[tuple[dict[str, Words], Array]]:
    """The rotations that lead from x (..., T, d) to y, in words, and what they give.

    The angles are measured, then written as somebody would: an even base, whole places.
    """
    length, depth = x.shape[-2:]
    if length < 2 or depth < 2 or depth % 2 or gap(x, y) == 0:
        return
    changed = np.abs(x - y).reshape(-1, depth).max(axis=0) > 1e-6 * np.abs(y).max()
    part = int(np.flatnonzero(changed).max(initial=0)) + 1
    for pairing in (HALVES, PAIRS):
        # columns beyond the rotated part stay: it ends within a pair where one angle is 0
        for turned in dict.fromkeys((depth, part + part % 2, *range(depth - 2, 0, -2))):
            angles = _angles(x[..., :turned], y[..., :turned], pairing)
            if angles is None or gap(x[..., turned:], y[..., turned:]) > 1e-4:
                continue
            yield from _worded(angles, x, depth)
            break


def _angles(x: Array, y: Array, pairing: Words) -> _Angles | None:
    """The angles between x and y; None where no rotation of these pairs leads from x to y."""
    z, w = _complex(x, pairing), _complex(y, pairing)
    over = tuple(range(z.ndim - 2))
    products = (w * z.conj()).sum(axis=over)
    angle_ti = np.angle(products)
    off = w - np.exp(1j * angle_ti) * z
    size = float(np.linalg.norm(w))
    if not size or np.linalg.norm(off) > 1e-3 * size or z.size < 4 * angle_ti.size // 2:
        return None
    steps = np.exp(1j * np.diff(angle_ti, axis=0)).sum(axis=0)
    turn_i = np.angle(steps)
    # a longer arm tells a small angle more finely
    for _ in range(2):
        place_t = np.arange(len(angle_ti))[:, None]
        rest = np.angle(np.exp(1j * (angle_ti - angle_ti[:1] - place_t * turn_i)))
        turn_i = turn_i + (place_t * rest).sum(axis=0) / np.square(place_t).sum()
    return _Angles(pairing, x.shape[-1], turn_i, angle_ti[0])


def _complex(x: Array, pairing: Words) -> "np.ndarray[tuple[int, ...], np.dtype[np.complex128]]":
    half = x.shape[-1] // 2
    if pairing == HALVES:
        return x[..., :half] + 1j * x[..., half:]
    return x[..., 0::2] + 1j * x[..., 1::2]


def _worded(angles: _Angles, x: Array, depth: int) -> Iterator[tuple[dict[str, Words], Array]]:
    """The rotation in words, where its angles are those of a base, and what it gives."""
    turn_i = angles.turn_i
    sense = -1.0 if turn_i[0] < 0 else 1.0
    sizes = turn_i * sense
    if not (sizes >= LEAST_ANGLE).all():  # nor where they are no numbers
        return
    count = len(sizes)
    factor, base = _base_of(sizes)
    fitted = factor * base ** -(np.arange(count) / count)
    is_of_base = bool((np.abs(sizes / fitted - 1) < 3 * ROUND).all())
    turn = sense * fitted if is_of_base else turn_i
    begin = _first_place(turn, angles.first_i)
    if begin is None:
        return
    angles_ti = (np.arange(x.shape[-2])[:, None] + begin) * turn
    result = rotated(x, angles_ti, angles.pairing)
    of_part = angles.depth if angles.depth != depth else None
    words = _words(angles.pairing, of_part, base if is_of_base else None, sense, begin, factor)
    yield words, result


def _first_place(turn_i: Array, first_i: Array) -> int | None:
    """The place that the sequence begins with, the nearest to 0."""
    for begin in sorted(range(-FIRST_PLACES, FIRST_PLACES + 1), key=abs):
        rest = np.angle(np.exp(1j * (first_i - begin * turn_i)))
        if np.abs(rest).max() < 1e-3:
            return begin
    return None


def _words(
    pairing: Words,
    part: int | None,
    base: float | None,
    sense: float,
    begin: int,
    factor: float,
) -> dict[str, Words]:
    written_base = NO_BASE if base is None else f"base {base:.10g}"
    slower = "places as they are" if factor == 1 else f"places divided by {number(1 / factor)}"
    return {
        "pairs": pairing,
        "part": Words("rotates", "all of a head" if part is None else f"{part} columns of a head"),
        "base": Words("has the", written_base),
        "scale": Words("counts", slower),
        "from": Words("begins", f"at place {begin}"),
        "sense": Words("turns", "backward" if sense < 0 else "forward"),
    }


def usual_angles(length: int, depth: int, base: float) -> Array:
    """The angles (T, d / 2) of a base, from place 0 on."""
    turn_i = base ** -(np.arange(depth // 2) / (depth // 2))
    return np.asarray(np.arange(length)[:, None] * turn_i)


def rotated(x: Array, angles_ti: Array, pairing: Words) -> Array:
    """x (..., T, d) with its first pairs turned by angles (T, n); what is beyond 2 n stays."""
    turned = 2 * angles_ti.shape[1]
    w = np.exp(1j * angles_ti) * _complex(x[..., :turned], pairing)
    result = x.copy()
    if pairing == HALVES:
        result[..., : turned // 2] = w.real
        result[..., turned // 2 : turned] = w.imag
    else:
        result[..., 0:turned:2] = w.real
        result[..., 1:turned:2] = w.imag
    return result
