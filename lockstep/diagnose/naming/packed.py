"""Tensors that one side packs into one, found by their names where the values differ: queries, keys
and values in one projection, the gates of a cell in one kernel; and the biases beside them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from lockstep.diagnose.naming.conventions import out_axis
from lockstep.diagnose.naming.layouts import Arrays, Join, Layout, Source
from lockstep.diagnose.naming.search import Search
from lockstep.diagnose.naming.sides import in_numbers
from lockstep.diagnose.naming.words import read_name

__all__ = ["follow_names_of_packed", "follow_weights", "turn_with_weights"]

BESIDE = "the weights beside it"
PACKED = "names, packed in this order by convention: the values differ"


class Family(NamedTuple):
    """Parts that may be packed into one tensor, in the order in which they are."""

    parts: tuple[str, ...]
    packed: tuple[frozenset[str], ...]
    """What the words of the packed tensor's name include: one of these sets."""


FAMILIES = (
    Family(
        ("q", "k", "v"),
        (frozenset({"qkv"}), frozenset({"q", "k", "v"}), frozenset({"in"}), frozenset({"attn"})),
    ),
    Family(("k", "v"), (frozenset({"kv"}), frozenset({"k", "v"}))),
    Family(("ii", "if", "ig", "io"), (frozenset({"input"}),)),
    Family(("hi", "hf", "hg", "ho"), (frozenset({"recurrent"}),)),
    Family(("ir", "iz", "in"), (frozenset({"input"}),)),
    Family(("hr", "hz", "hn"), (frozenset({"recurrent"}),)),
)


def follow_names_of_packed(search: Search) -> bool:
    """Settle packed tensors against their parts by names. Says whether there was any."""
    settled = False
    for family in FAMILIES:
        for whole, parts in _pairs(search, family, packed_in_a=True):
            join = _join(search.a.arrays, whole, search.b.arrays, parts)
            if join is not None:
                search.settle(whole, join, PACKED)
                settled = True
        for whole, parts in _pairs(search, family, packed_in_a=False):
            settled = _settle_parts(search, whole, parts) or settled
    return settled


def _pairs(
    search: Search, family: Family, *, packed_in_a: bool
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each packed tensor of one side with its parts of the other, where there are as many of
    both.
    """
    wholes, part_arrays = search.a.arrays, search.b.arrays
    open_wholes, open_parts = search.open_a, search.open_b
    if not packed_in_a:
        wholes, part_arrays = part_arrays, wholes
        open_wholes, open_parts = open_parts, open_wholes
    groups = _groups(part_arrays, open_parts, family)
    packed = [
        name
        for name in in_numbers({name: wholes[name] for name in open_wholes})
        if wholes[name].ndim > 1 and _says(name, family)
    ]
    sizes = [sum(part_arrays[part].size for part in group) for group in groups]
    packed = [name for name in packed if wholes[name].size in sizes]
    if len(packed) == len(groups):
        for name, group, size in zip(packed, groups, sizes):
            if wholes[name].size == size:
                yield name, group


def _says(name: str, family: Family) -> bool:
    words = set(read_name(name).words)
    return any(needed <= words for needed in family.packed)


def _groups(arrays: Arrays, names: Sequence[str], family: Family) -> list[tuple[str, ...]]:
    """The open weights of each module that has all parts of a family, in the family's order."""
    modules: dict[tuple[str, ...], dict[str, str]] = {}
    for name in in_numbers({name: arrays[name] for name in names}):
        read = read_name(name)
        if arrays[name].ndim > 1 and read.role in ("weight", "") and read.path:
            modules.setdefault(read.path[:-1], {})[_part(name, family)] = name
    return [
        tuple(parts[part] for part in family.parts)
        for parts in modules.values()
        if all(part in parts for part in family.parts)
    ]


def _part(name: str, family: Family) -> str:
    """Which part of a family a tensor is, or ""."""
    read = read_name(name)
    own = read.path[-1].strip("_").lower()
    if own in family.parts:
        return own
    words = set(read_name(read.path[-1] + ".weight").words)
    said = [part for part in family.parts if part in words]
    return said[0] if len(said) == 1 else ""


def _join(wholes: Arrays, whole: str, part_arrays: Arrays, parts: Sequence[str]) -> Join | None:
    """The parts laid out one after another along the axis of the packed tensor's outputs; None
    where the shapes do not allow it.
    """
    shape = wholes[whole].shape
    for axis in range(len(shape)):
        laid_out = _laid_out(shape, axis, part_arrays, parts)
        if laid_out:
            return Join(tuple(laid_out), axis)
    return None


def _laid_out(
    shape: tuple[int, ...], axis: int, part_arrays: Arrays, parts: Sequence[str]
) -> list[Layout]:
    """The layouts of the parts, whose outputs come to lie along an axis; [] where they do not
    fit.
    """
    if len(shape) != 2:
        return []
    inputs = shape[1 - axis]
    laid_out: list[Layout] = []
    length = 0
    for part in parts:
        array = part_arrays[part]
        outputs, rest = divmod(array.size, inputs)
        out = out_axis(part, array)
        is_in_out = out > 0
        flat = (inputs, outputs) if is_in_out else (outputs, inputs)
        own_inputs = array.shape[0] if is_in_out else array.shape[-1]
        if rest or own_inputs != inputs:
            return []
        reshape = () if array.shape == flat else flat
        is_turned = is_in_out != (axis == 1)
        laid_out.append(Layout(part, (1, 0) if is_turned else (), reshape))
        length += outputs
    return laid_out if length == shape[axis] else []


def _settle_parts(search: Search, whole: str, parts: Sequence[str]) -> bool:
    """Settle the parts of A as slices of B's packed tensor."""
    array = search.b.arrays[whole]
    for axis in range(array.ndim):
        laid_out = _laid_out(array.shape, axis, search.a.arrays, parts)
        if not laid_out:
            continue
        begin = 0
        for part, layout in zip(parts, laid_out):
            value = search.a.arrays[part]
            size = value.size // array.shape[1 - axis]
            span = (begin, begin + size)
            shape = value.shape if layout.reshape else ()
            taken = Layout(whole, layout.axes, span=span, axis=axis, shape=shape)
            search.settle(part, taken, PACKED)
            begin += size
        return True
    return False


# ---- the biases of packed weights


def follow_weights(search: Search) -> bool:
    """Settle the biases of weights that are joined or sliced. Says whether there was any."""
    settled = False
    for name in search.open_a:
        if search.a.arrays[name].ndim != 1 and read_name(name).role != "bias":
            continue
        source = _as_weights(search, name)
        if source is not None:
            search.settle(name, source, BESIDE)
            settled = True
    return settled


def _as_weights(search: Search, name: str) -> Source | None:
    """What a bias is made of, as the weight of its module is; None where B lacks a part."""
    for other, source in search.settled.items():
        if read_name(other).module != read_name(name).module or other not in search.a.arrays:
            continue
        if isinstance(source, Join):
            return _joined_biases(search, name, source)
        if source.span:
            return _sliced_bias(search, name, source)
    return None


def _joined_biases(search: Search, name: str, weights: Join) -> Join | None:
    parts: list[Layout] = []
    for weight in weights.parts:
        beside = _beside(search, name, weight.name)
        if len(beside) != 1:
            return None
        array = search.b.arrays[beside[0]]
        parts.append(Layout(beside[0], (), (array.size,) if array.ndim > 1 else ()))
    size = sum(search.b.arrays[part.name].size for part in parts)
    return Join(tuple(parts)) if size == search.a.arrays[name].size else None


def _sliced_bias(search: Search, name: str, weight: Layout) -> Layout | None:
    array = search.b.arrays[weight.name]
    bias = search.a.arrays[name]
    begin, end = weight.span
    for part, value in search.b.arrays.items():
        is_beside = read_name(part).module == read_name(weight.name).module
        is_bias = value.shape == (array.shape[weight.axis],)
        if is_beside and is_bias and end - begin == bias.size:
            return Layout(part, span=weight.span, shape=bias.shape if bias.ndim > 1 else ())
    return None


def _beside(search: Search, name: str, weight: str) -> list[str]:
    """B's open tensors of a bias's role in the module of a weight of B's."""
    return [
        other
        for other in search.open_b
        if read_name(other).module == read_name(weight).module
        and read_name(other).role == read_name(name).role
    ]


def turn_with_weights(search: Search) -> None:
    """Give biases of one number the blocks' order of the weight beside them, which their own values
    cannot show.
    """
    for name, source in list(search.settled.items()):
        if name not in search.constants or not isinstance(source, Layout) or source.gates:
            continue
        for other, weight in search.settled.items():
            if not isinstance(weight, Layout) or not weight.gates:
                continue
            is_beside = read_name(other).module == read_name(name).module
            is_as_long = search.a.arrays[name].shape == (
                search.b.arrays[weight.name].shape[weight.axis],
            )
            if is_beside and is_as_long:
                search.settled[name] = replace(source, gates=weight.gates, axis=0)
