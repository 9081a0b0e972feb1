"""A backward pass that is another one on either side, where forward passes and losses are equal."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.between.explanation import Explanation
from lockstep.diagnose.between.gradients.backward_steps import (
    Path,
    gradients_before,
    path_to_loss,
    slopes_of,
)
from lockstep.diagnose.between.pair import LoopPair, LoopSide
from lockstep.numbers import factor
from lockstep.oracle.arithmetic import Array

__all__ = ["other_backward", "reversed_before"]

PAGE = "custom-backward-lost"
BEGIN = "forward and loss are equal and gradients are not: "
IDEA = "a backward of its own"
APART = 1e-3
"""Shares of a gradient that differ by less are one."""
FLAT = 1e-9
"""A slope below this is that of a step that is flat there."""
FEWEST = 3
"""Elements of a gradient for each share that is fitted to them."""


def _is_equal_before(pair: LoopPair) -> bool:
    """Whether everything up to the loss is equal at the pair's update."""
    return not pair.differing("forward") and not pair.differing("loss")


def _order(pair: LoopPair) -> list[str]:
    """The layers in call order, as a has them: b may have lost it."""
    return pair.mine.layers if pair.mine.name == "a" else pair.other.layers


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


class _Bracket(NamedTuple):
    """The last layer whose gradients differ, the first behind it whose gradients are equal, or
    "the loss", and the recorded layers in between.
    """

    last: str
    behind: str
    between: tuple[str, ...]


def _bracket(pair: LoopPair) -> _Bracket | None:
    """Where the backward passes part; None where gradients differ behind equal ones."""
    apart = {_module_of(name) for name in pair.differing("gradients")}
    gradients = pair.mine.tensors("gradients", pair.update)
    trained = {_module_of(name) for name in gradients}
    layers = [name for name in _order(pair) if not name.endswith(".input")]
    order = [layer for layer in layers if layer in trained]
    if not apart or not apart <= set(order):
        return None
    cut = max(order.index(module) for module in apart)
    last = order[cut]
    behind = order[cut + 1] if cut + 1 < len(order) else "the loss"
    begin = layers.index(last) + 1
    end = layers.index(behind) if behind in layers else len(layers)
    return _Bracket(last, behind, tuple(layers[begin:end]))


def reversed_before(pair: LoopPair) -> Iterator[Explanation]:
    """That the gradient of all layers up to one is 0, or -1 times the other side's."""
    bracket = _bracket(pair)
    if bracket is None or bracket.behind == "the loss" or not _is_equal_before(pair):
        return
    other = pair.other.tensors("gradients", pair.update)
    names = pair.differing("gradients")
    where = f"between {bracket.last} and {bracket.behind}"
    who, beside = pair.mine.name, pair.other.name
    modules = " and ".join(dict.fromkeys(map(_module_of, names)))
    cut = (
        f"{who}'s gradient of {modules} is 0: it is cut {where} (detach or stop_gradient), or what "
        "lies before is frozen"
    )
    turned = f"{who} reverses the gradient {where}: up to there it is -1 times {beside}'s"
    for times, text in ((-1.0, turned), (0.0, cut)):
        predicted = {name: times * other[name] for name in names}
        yield Explanation("gradient-cut", BEGIN + text, predicted, "a gradient that is cut", PAGE)


def other_backward(pair: LoopPair) -> Iterator[Explanation]:
    """That the step behind the last layer with other gradients has a backward of its own."""
    bracket = _bracket(pair)
    if bracket is None or not _is_equal_before(pair):
        return
    routes = {}
    for side in (pair.mine, pair.other):
        path = path_to_loss(side, _order(pair), bracket.last, pair.update, pair.tolerance)
        shares = None if path is None else _shares(side, path, bracket.last, pair)
        if path is None or shares is None:
            return
        routes[side.name] = path, shares
    words = _difference_in_words(routes["a"][1], routes["b"][1], routes["a"][0])
    path, shares = routes[pair.mine.name]
    if not words or np.allclose(slopes_of(path), 1.0) or _has_one_factor(pair):
        return  # where nothing lies between, or all is scaled, no step has another backward
    delta = _delta(path, shares)
    predicted = gradients_before(pair.mine, bracket.last, pair.update, delta)
    names = pair.differing("gradients")
    if predicted is None:
        return
    where = f"between {bracket.last} and {bracket.behind}"
    if len(bracket.between) == 1:
        where = f"of {bracket.between[0]}, {where},"
    text = f"{BEGIN}the backward {where} differs"
    explained = {name: array for name, array in predicted.items() if name in names}
    yield Explanation(
        "other-backward",
        f"{text} ({words})",
        explained,
        IDEA,
        PAGE,
        is_part=not set(names) <= explained.keys(),
    )


def _has_one_factor(pair: LoopPair) -> bool:
    """Whether every gradient is the other side's times one number, other than 0."""
    mine = pair.mine.tensors("gradients", pair.update)
    other = pair.other.tensors("gradients", pair.update)
    names = [name for name in mine if name in other and mine[name].shape == other[name].shape]
    x = np.concatenate([mine[name].ravel() for name in names])
    z = np.concatenate([other[name].ravel() for name in names])
    times = float(x @ z) / float(z @ z) if z.any() else 0.0
    off = float(np.linalg.norm(x - times * z))
    return abs(times) > APART and off <= pair.tolerance * float(np.linalg.norm(x))


class _Region(NamedTuple):
    """Where a backward is let through: `end` is "below" or "above", where the forward is flat, and
    `sign` what the gradient is there, "positive" or "negative"; both are "" where it moves.
    """

    end: str
    sign: str
    gradient: Array


_Shares = dict[tuple[str, str], float]
"""End and sign of a region -> the share of the gradient that is let through there."""
CUT = "lets none through"
STRAIGHT = ("", "straight")
"""The one region of a backward that does not look at the slope."""
STRAIGHT_INSIDE = ("", "straight within 1")
"""The same of one that lets the gradient through where its input is between -1 and 1."""


def _regions(path: Path) -> list[_Region]:
    """The gradient by the layer's output in parts: where the forward moves, multiplied by its
    slope, and where it is flat, as it is.
    """
    slope = slopes_of(path)
    flat = np.abs(slope) <= FLAT
    middle = float(np.median(path.z[~flat])) if (~flat).any() else 0.0
    regions = [_Region("", "", path.delta * np.where(flat, 0.0, slope))]
    for end, is_there in (("below", path.z <= middle), ("above", path.z > middle)):
        for sign, has_sign in (("positive", path.delta > 0), ("negative", path.delta < 0)):
            regions.append(_Region(end, sign, path.delta * (flat & is_there & has_sign)))
    return [region for region in regions if region.gradient.any()]


def _shares(side: LoopSide, path: Path, layer: str, pair: LoopPair) -> _Shares | None:
    """The shares that give a side's gradients of a layer; None where none do."""
    recorded = {
        name: array
        for name, array in side.tensors("gradients", pair.update).items()
        if _module_of(name) == layer
    }
    target = np.concatenate([array.ravel() for array in recorded.values()])
    inside = path.delta * (np.abs(path.z) <= 1)
    ways = [
        [_Region(*STRAIGHT, path.delta)],
        _regions(path),
        [_Region(*STRAIGHT_INSIDE, inside)],
    ]
    # where the forward passes its input on, its slope is straight through
    for regions in ways[1:2] if np.allclose(slopes_of(path), 1) else ways:
        columns = []
        for region in regions:
            of_region = gradients_before(side, layer, pair.update, region.gradient)
            if of_region is None or not recorded.keys() <= of_region.keys():
                return None
            columns.append(np.concatenate([of_region[name].ravel() for name in recorded]))
        if not columns or len(target) < FEWEST * len(columns):
            continue
        matrix = np.stack(columns, axis=1)
        fitted, *_ = np.linalg.lstsq(matrix, target, rcond=None)
        off = float(np.linalg.norm(matrix @ fitted - target))
        if off <= pair.tolerance * float(np.linalg.norm(target)):
            keys = [region[:2] for region in regions]
            if keys[0] in (STRAIGHT, STRAIGHT_INSIDE) and abs(fitted[0] - 1) > APART:
                continue
            return dict(zip(keys, fitted.tolist()))
    return None


def _delta(path: Path, shares: _Shares) -> Array:
    """The gradient by the layer's output that these shares give."""
    if STRAIGHT in shares:
        return path.delta
    if STRAIGHT_INSIDE in shares:
        return path.delta * (np.abs(path.z) <= 1)
    delta = np.zeros_like(path.delta)
    for region in _regions(path):
        delta += shares.get(region[:2], 0.0) * region.gradient
    return delta


def _difference_in_words(a: _Shares, b: _Shares, path: Path) -> str:
    """What one side lets through and the other does not; "" where that is alike."""
    kind_a, kind_b = _kind_in_words(a), _kind_in_words(b)
    moves = bool((np.abs(slopes_of(path)) > FLAT).any())
    if moves and CUT in (kind_a, kind_b):
        return ""  # what lies before may be frozen as well
    if kind_a != kind_b:
        return f"a {kind_a}, b {kind_b}"
    parts = []
    for end in ("below", "above"):
        of_both = {
            sign: (a.get((end, sign), 0.0), b.get((end, sign), 0.0))
            for sign in ("positive", "negative")
            if (end, sign) in a or (end, sign) in b
        }
        apart = {sign: pair for sign, pair in of_both.items() if abs(pair[0] - pair[1]) > APART}
        for sign, (of_a, of_b) in apart.items():
            through, share = ("a", of_a) if abs(of_a) > abs(of_b) else ("b", of_b)
            times = "" if abs(share - 1) <= APART else f" {factor(share, 3)} times the"
            where = _end_in_words(end, path)
            both = len(apart) == 2 and len(set(map(_rounded, apart.values()))) == 1
            only = "" if both or len(of_both) == 1 else f" and the gradient is {sign}"
            parts.append(f"{through} lets{times} gradient through where {where}{only}")
    moved_a, moved_b = a.get(("", ""), 1.0), b.get(("", ""), 1.0)
    if min(abs(moved_a), abs(moved_b), abs(moved_a + moved_b)) <= APART:
        return ""  # the gradient is cut or reversed
    if abs(moved_a - moved_b) > APART * abs(moved_a):
        parts.append(f"b's is {factor(moved_b / moved_a, 4)} times a's where its input moves it")
    return "; ".join(dict.fromkeys(parts))


def _kind_in_words(shares: _Shares) -> str:
    """What a backward does, with a verb."""
    if STRAIGHT in shares:
        return "lets the gradient straight through"
    if STRAIGHT_INSIDE in shares:
        return "lets it straight through where its input is between -1 and 1"
    is_cut = all(abs(share) <= APART for share in shares.values())
    return CUT if is_cut else "takes the slope of the forward"


def _rounded(pair: tuple[float, float]) -> tuple[float, float]:
    return round(pair[0], 3), round(pair[1], 3)


def _end_in_words(end: str, path: Path) -> str:
    slope = slopes_of(path)
    flat = np.abs(slope) <= FLAT
    middle = float(np.median(path.z[~flat])) if (~flat).any() else 0.0
    there = flat & (path.z <= middle if end == "below" else path.z > middle)
    if _is_identity(path):
        return f"its input is at or {end} {float(np.median(path.h[there])):.4g}"
    return f"its input is {end} the range in which it moves"


def _is_identity(path: Path) -> bool:
    """Whether the forward passes its input on where it is not flat."""
    slope = slopes_of(path)
    moves = np.abs(slope) > FLAT
    return bool(moves.any() and np.allclose(path.h[moves], path.z[moves], rtol=1e-6))
