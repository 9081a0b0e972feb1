"""What an attention is computed from: queries, keys and values among the recorded arrays."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lockstep.diagnose.between.layers.masks import masks
from lockstep.diagnose.between.layers.places import Place
from lockstep.diagnose.between.layers.rotary import BASES, usual_angles
from lockstep.diagnose.between.layers.ways import Words
from lockstep.oracle.arithmetic import Array

__all__ = ["LONGEST", "Parts", "heads_of", "lengths_of", "parts_of", "width_of"]

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


@dataclass(frozen=True)
class Parts:
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
        return dict(masks(self.place, (len(self.place.mine), 1, *lengths_of(self))))

    def first_examples(self) -> "Parts":
        """These of the first examples alone."""
        cut = slice(EXAMPLES)
        place = self.place
        inputs = {
            name: array[cut] if array.ndim and len(array) == len(place.mine) else array
            for name, array in place.inputs.items()
        }
        cut_place = replace(place, mine=place.mine[cut], other=place.other[cut], inputs=inputs)
        return replace(self, place=cut_place, q=self.q[cut], k=self.k[cut], v=self.v[cut])


def parts_of(place: Place) -> Iterator[Parts]:
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
            yield Parts(place, q, k, v, table)
        for roles in ROLES:
            names = [f"{head}.{role}" if head else role for role in roles]
            if last == roles[-1] and all(other in floats for other in names):
                q, k, v = (floats[other] for other in names)
                if len(q) == len(k) == len(v) == examples:
                    yield Parts(place, q, k, v, table)


def _recorded_table(place: Place) -> Array | None:
    """The angles of a recorded table of cosines (1, T, d), as Hugging Face's rotary layer gives."""
    for name, array in place.inputs.items():
        if "rot" not in name.lower() or array.dtype.kind != "f" or array.ndim not in (2, 3):
            continue
        cosines = array.reshape(-1, *array.shape[-2:])[0]
        if np.abs(cosines).max() <= 1 and np.abs(cosines[0] - 1).max() < 1e-6:
            half = cosines.shape[-1] // 2
            turn_i = np.arccos(np.clip(cosines[1, :half], -1, 1)) if len(cosines) > 1 else 0
            for base in BASES:
                angles = usual_angles(len(cosines), cosines.shape[1], base)
                if np.abs(np.cos(angles) - cosines[:, :half]).max() < 1e-5:
                    return angles
            angles = np.arange(len(cosines))[:, None] * turn_i
            if np.abs(np.cos(angles) - cosines[:, :half]).max() < 1e-2:
                return np.asarray(angles)
    return None


def width_of(parts: Parts) -> int:
    """The width of all heads of queries together."""
    if parts.q.ndim == 3:
        return int(parts.q.shape[-1])
    by_layout = heads_of(parts)
    return int(parts.q.shape[-1] * by_layout[0]) if by_layout else 0


def heads_of(parts: Parts) -> list[int]:
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


def lengths_of(parts: Parts) -> tuple[int, int]:
    """The places of queries and of keys."""
    if parts.q.ndim == 3:
        return parts.q.shape[1], parts.k.shape[1]
    axis = 1 if parts.q.shape[1] == parts.place.mine.shape[1] and parts.place.mine.ndim == 3 else 2
    return parts.q.shape[axis], parts.k.shape[axis]
