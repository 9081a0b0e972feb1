"""What one loop's initial parameters are beside the other's: another draw, another law, constants
in place of draws, or running statistics that have moved already.
"""

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.pair import Arrays, LoopPair
from lockstep.diagnose.between.starts.laws import Law, Width, laws_of, width_of, widths_apart
from lockstep.numbers import number
from lockstep.oracle.arithmetic import Array

__all__ = [
    "another_draw",
    "constants",
    "moved_statistics",
    "padding_row",
    "scaled_draw",
    "wider_law",
]

FEWEST = 24
"""Values of a tensor from which a correlation says anything."""
FEWEST_ALONE = 12
"""Values that all tensors of a law must have together."""
UNRELATED = 5.0
"""Standard errors within which a correlation, or a difference of means, is none."""
FAR = 10.0
"""How much wider one of two tensors of few values may be by chance."""
SAME = 1e-6
NAMED = 4
COUNTS = {2: "two", 3: "three", 4: "four"}
ITERATED = re.compile(r"(^|[._])[uv]$")
"""Names of the vectors of a spectral norm, which are iterated and not trained."""
PACKED_NAME = re.compile("in_proj|qkv|c_attn|query_key_value|kv_proj|_ih|_hh|gates")
"""Names of tensors in which several matrices are packed."""
DRAW_PAGE = "another-draw-of-the-same-law"
WIDTH_PAGE = "xavier-of-packed-matrices"
LAYOUT_PAGE = "fan-in-of-a-transposed-weight"
DEFAULT_PAGE = "linear-initialisation"


def _parameters(pair: LoopPair) -> tuple[Arrays, Arrays, list[str]]:
    """The initial parameters of both sides, and the names of those that differ, without buffers."""
    mine = pair.mine.parameters(0)
    other = pair.other.parameters(0)
    buffers = pair.mine.buffers | pair.other.buffers
    names = [
        name for name in pair.differing("init") if name not in buffers and not ITERATED.search(name)
    ]
    return mine, other, names


def _listed(names: Sequence[str]) -> str:
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def padding_row(pair: LoopPair) -> Iterator[Explanation]:
    """That one row of a table begins at 0 on one side, as that of a padding index does."""
    mine, other, names = _parameters(pair)
    for name in names:
        if mine[name].ndim != 2:
            continue
        rows = np.flatnonzero(~mine[name].any(axis=1) & other[name].any(axis=1))
        if len(rows) != 1 or len(mine[name]) < 2:
            continue
        predicted = other[name].copy()
        predicted[rows] = 0
        text = (
            f"row {rows[0]} of {name} begins at 0 in {pair.mine.name} (a padding index), in "
            f"{pair.other.name} it is drawn; all other rows are equal"
        )
        yield Explanation(
            "padding-row-begins-at-0",
            text,
            {name: predicted},
            "a row of zeros",
            "padding-index-of-an-embedding",
            is_part=pair.differing("init") != [name],
        )


def moved_statistics(pair: LoopPair) -> Iterator[Explanation]:
    """That running statistics are not at their beginning, 0 or 1, on one side."""
    buffers = pair.mine.buffers | pair.other.buffers
    mine, other = pair.mine.parameters(0), pair.other.parameters(0)
    differing = pair.differing("init")
    names = [
        name
        for name in differing
        if name in buffers and _is_constant(other[name]) and not _is_constant(mine[name])
    ]
    names = [name for name in names if float(other[name].flat[0]) in (0.0, 1.0)]
    if not names:
        return
    text = (
        f"{pair.mine.name}'s {_listed(names)} have moved before training: {pair.other.name}'s are "
        "as they begin"
    )
    predicted = {name: mine[name] for name in names}
    yield Explanation(
        "statistics-moved",
        text,
        predicted,
        "statistics that have moved",
        is_part=len(names) < len(differing),
    )


def _is_constant(array: Array) -> bool:
    return bool(array.size and (array == array.flat[0]).all())


def constants(pair: LoopPair) -> Iterator[Explanation]:
    """That parameters begin with one number on one side and with draws, or another number, on the
    other.
    """
    mine, other, names = _parameters(pair)
    by_value: dict[float, list[str]] = {}
    for name in names:
        if _is_constant(mine[name]) and mine[name].size > 1:
            by_value.setdefault(float(mine[name].flat[0]), []).append(name)
    for value, same in by_value.items():
        others = {float(other[name].flat[0]) for name in same if _is_constant(other[name])}
        drawn = [name for name in same if not _is_constant(other[name])]
        if not drawn and len(others) == 1:
            what = f"{pair.other.name} at {number(others.pop())}"
        elif len(drawn) == len(same):
            what = f"{pair.other.name} draws {'them' if len(same) > 1 else 'it'}"
        else:
            continue
        text = f"{pair.mine.name} starts {_listed(same)} at {number(value)}; {what}"
        predicted = {name: np.full_like(mine[name], value) for name in same}
        yield Explanation(
            "init-constant",
            text,
            predicted,
            "one number for a draw",
            DEFAULT_PAGE,
            is_part=len(same) < len(pair.differing("init")),
        )


def scaled_draw(pair: LoopPair) -> Iterator[Explanation]:
    """That a side draws the same numbers and scales them, tensor by tensor."""
    mine, other, names = _parameters(pair)
    factors: dict[str, float] = {}
    for name in names:
        square = float(np.square(other[name]).sum())
        if not square or other[name].size < 4:
            continue
        factor = float((mine[name] * other[name]).sum()) / square
        gap = float(np.linalg.norm(mine[name] - factor * other[name]))
        if factor > 0 and gap <= SAME * float(np.linalg.norm(mine[name])):
            factors[name] = factor
    if not factors or max(factors.values()) < 1:  # said of the side that is larger
        return
    predicted = {name: factor * other[name] for name, factor in factors.items()}
    parts = []
    for factor in dict.fromkeys(round(value, 6) for value in factors.values()):
        same = [name for name in factors if round(factors[name], 6) == factor]
        parts.append(f"{_listed(same)} {_root(factor)} times")
    text = (
        f"{pair.mine.name}'s initial parameters are {pair.other.name}'s draw scaled: "
        f"{'; '.join(parts)}"
    )
    page = LAYOUT_PAGE if len(parts) > 1 else DEFAULT_PAGE
    elements = sum(array.size for array in predicted.values())
    if elements >= FEWEST_ALONE:
        yield Explanation(
            "init-scaled",
            text,
            predicted,
            "the same draw, scaled",
            page,
            is_part=len(factors) < len(pair.differing("init")),
        )


def _root(factor: float) -> str:
    """A factor, with the root that it is: "sqrt(2) = 1.414"."""
    square = factor * factor
    for numerator in range(1, 17):
        for denominator in range(1, 17):
            if math.gcd(numerator, denominator) > 1 or numerator == denominator:
                continue
            is_root = abs(square * denominator - numerator) <= 1e-5 * numerator
            if is_root and math.isqrt(numerator) ** 2 != numerator:
                inside = f"{numerator}/{denominator}" if denominator > 1 else str(numerator)
                return f"sqrt({inside}) = {number(factor)}"
    return number(factor)


# ---- draws that have nothing to do with one another


def _drawn_apart(pair: LoopPair) -> dict[str, tuple[Width, Width]]:
    """The tensors that both sides drew, and not the same: their widths on both sides. Empty where
    some of what differs hangs together.
    """
    mine, other, names = _parameters(pair)
    widths: dict[str, tuple[Width, Width]] = {}
    for name in names:
        x, z = mine[name].ravel(), other[name].ravel()
        if x.size < 2 or _is_constant(x) or _is_constant(z):
            continue
        if np.array_equal(np.sort(x), np.sort(z)):
            return {}  # the same numbers at other places
        if x.size >= FEWEST and not _are_unrelated(mine[name], other[name]):
            return {}
        widths[name] = width_of(x), width_of(z)
    sizes = [width.size for width, _ in widths.values()]
    is_enough = bool(sizes) and max(sizes) >= FEWEST
    return widths if is_enough else {}


def _are_unrelated(mine: Array, other: Array) -> bool:
    """Whether two arrays are uncorrelated, as they are and with one of them transposed."""
    limit = UNRELATED / math.sqrt(mine.size)
    turned = other.T if other.ndim == 2 and other.shape[0] == other.shape[1] else other
    for candidate in (other, turned):
        x = mine.ravel() - mine.mean()
        z = candidate.ravel() - candidate.mean()
        size = float(np.linalg.norm(x) * np.linalg.norm(z))
        if not size or abs(float(x @ z)) / size > limit:
            return False
    return True


def _are_of_one_law(one: Width, other: Width) -> bool:
    """Whether means and deviations are equal within their errors."""
    if one.size < FEWEST:  # so few values say little, and those of larger tensors decide
        return max(one.deviation, other.deviation) < FAR * min(one.deviation, other.deviation)
    error = math.hypot(one.deviation, other.deviation) / math.sqrt(one.size)
    has_one_mean = abs(one.mean - other.mean) <= UNRELATED * error
    return has_one_mean and not widths_apart(one, other)


def wider_law(pair: LoopPair) -> Iterator[Explanation]:
    """That tensors are another draw, of a law that is wider; one cause for each ratio."""
    mine = pair.mine.parameters(0)
    widths = _drawn_apart(pair)
    apart = {
        name: both
        for name, both in widths.items()
        if both[0].size >= FEWEST and widths_apart(*both)
    }
    groups: dict[tuple[str, str], list[str]] = {}
    for name, (one, other) in apart.items():
        groups.setdefault(_ratio(name, mine[name].shape, one, other), []).append(name)
    for (ratio, reason), names in groups.items():
        one, other = apart[names[0]]
        is_wider = one.deviation > other.deviation
        word = "wide" if is_wider else "narrow"
        text = (
            f"{pair.mine.name}'s initial {_listed(names)} {'is' if len(names) == 1 else 'are'} "
            f"another draw, of a law {ratio} times as {word} as {pair.other.name}'s"
        )
        page = WIDTH_PAGE if "packed" in reason else DEFAULT_PAGE
        if reason:
            text += f": {reason}"
        if is_wider:  # said once, by the side that is wider
            yield Explanation(
                "init-law",
                text,
                {name: mine[name] for name in names},
                "a wider law",
                page,
                is_part=set(names) != set(pair.differing("init")),
            )


def _ratio(name: str, shape: tuple[int, ...], one: Width, other: Width) -> tuple[str, str]:
    """How many times as wide the wider of two is, and why; "" where the shape does not give the
    number.
    """
    wide, narrow = (one, other) if one.deviation >= other.deviation else (other, one)
    measured = wide.deviation / narrow.deviation
    relative = math.hypot(wide.error / wide.deviation, narrow.error / narrow.deviation)
    reasons: dict[str, float] = {}
    for of_wide, of_narrow in _pairs(laws_of(shape, wide), laws_of(shape, narrow)):
        ratio = of_wide.deviation / of_narrow.deviation
        reasons.setdefault(_reason(of_wide, of_narrow), ratio)
    if PACKED_NAME.search(name) and any("packed" in reason for reason in reasons):
        reasons = {reason: ratio for reason, ratio in reasons.items() if "packed" in reason}
    ratios = {round(ratio, 6) for ratio in reasons.values()}
    if len(ratios) != 1:  # none that the shape gives, or several
        digits = max(2, 1 + int(-math.log10(max(relative, 1e-6))))
        return f"about {number(measured, digits)}", ""
    return _root(ratios.pop()), ", or ".join(list(reasons)[:2])


def _reason(wide: Law, narrow: Law) -> str:
    """One law for another, in words."""
    if wide.pieces > 1 and narrow.pieces == 1:
        return f"{_kind(wide)} of {COUNTS[wide.pieces]} matrices for one packed"
    return f"{wide.words} for {narrow.words}"


def _pairs(wide: Sequence[Law], narrow: Sequence[Law]) -> Iterator[tuple[Law, Law]]:
    """The laws of both sides that somebody may have taken for one another: first those of one kind,
    of which one is of packed matrices or has its fans exchanged; then any two.
    """
    both = [
        (one, other)
        for one in wide
        for other in narrow
        if other.pieces == 1 and (one.pieces == 1 or _kind(one) == _kind(other))
    ]
    alike = [entry for entry in both if _kind(entry[0]) == _kind(entry[1])]
    yield from alike or both
    if alike:
        yield from (entry for entry in both if entry[0].pieces == 1 and entry not in alike)


def _kind(law: Law) -> str:
    return law.words.partition(" (")[0]


def another_draw(pair: LoopPair) -> Iterator[Explanation]:
    """That tensors are another draw of the same law."""
    mine, other, names = _parameters(pair)
    widths = _drawn_apart(pair)
    same = [name for name, both in widths.items() if _are_of_one_law(*both)]
    if not same:
        return
    drawn = [
        name
        for name, array in mine.items()
        if name not in pair.mine.buffers and array.size > 1 and not _is_constant(array)
    ]
    weights = {name for name in drawn if mine[name].ndim > 1}
    equal = [name for name in drawn if name in other and name not in names]
    what = "every weight that was drawn" if weights <= set(same) else _listed(same)
    text = (
        f"{pair.mine.name}'s initial parameters are another draw of the same law (equal means and "
        f"deviations, no linear relation), in {what}"
    )
    if equal:
        text += f"; {_listed(equal)} are equal"
    predicted = {name: mine[name] for name in same}
    yield Explanation(
        "another-draw",
        text,
        predicted,
        "another draw",
        DRAW_PAGE,
        is_part=set(same) != set(pair.differing("init")),
    )
