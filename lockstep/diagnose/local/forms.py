"""What a layer does, as far as one side's own numbers tell: its kind and its settings."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from lockstep.diagnose.local.layer_view import INPUT, LayerView, distance
from lockstep.oracle.arithmetic import Array

__all__ = [
    "AFTER",
    "Form",
    "Kind",
    "Settings",
    "Words",
    "back",
    "in_words_of",
    "other_forms",
    "side_by_side",
    "spatial",
]

Settings = Mapping[str, object]
"""Name of a setting -> its value, which can be compared."""
EXAMPLES = 2
"""Examples on which the forms of a layer that treats each example alike are looked for."""
MOST_ELEMENTS = 2**21
"""Elements of an output above which it is left alone."""
MOST_TRIED = 1000
MOST_TRIED_OF_ALL = 4000
"""Settings that are computed with one input, and with all, before a layer counts as none of the
kind."""
AFTER = " > "
"""Stands between the name of an input and the steps that follow it."""
APART = 100.0
"""A form fits one side alone where it leaves so many times more of the other."""
FEWEST = 8
"""Elements of an output that tell, at least."""


class Words(NamedTuple):
    """A difference of two forms: the key of the cause, one sentence on it, its page or "", and who
    is off where that is known.
    """

    key: str
    text: str
    page: str = ""
    side: str = ""


class Kind(Protocol):
    """A kind of layer; `is_by_example` says whether each example has its output by itself."""

    is_by_example: bool

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """The settings that are tried, the simplest first. "input" is the name of what feeds it."""
        ...

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """What a layer of these settings gives; None where they do not fit its input."""
        ...

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """What differs in the settings of a layer; None where that is nothing to say."""
        ...


class Form(NamedTuple):
    """A layer of one side as its own numbers tell it, and how far they are off from that."""

    kind: Kind
    settings: Settings
    residual: float


def other_forms(
    kind: Kind, a: LayerView, b: LayerView, tolerance: float
) -> tuple[Form, ...] | None:
    """The forms of a layer in a and in b, where each is known and does not fit the other side.

    Args:
        kind: of the layer on both sides.
        a: the layer of one side.
        b: the same of the other.
        tolerance: the largest relative error of a form.

    Returns:
        Two forms; none where one form fits both sides, and None where a side has no form.
    """
    if not FEWEST <= max(a.output.size, b.output.size) <= MOST_ELEMENTS:
        return None
    small_a, small_b = (
        view.first_examples(EXAMPLES) if kind.is_by_example else view for view in (a, b)
    )
    usual = _first_of_either(kind, small_a, small_b, tolerance)
    if usual is None:
        return None
    first: Form | None = usual
    if not _fits(kind, small_a, usual, tolerance):  # a's is rarer, and found from b's
        nearest = _nearest_first(kind, small_a, usual.settings)
        first = _first_form(kind, small_a, nearest, tolerance)
    if first is None:
        return None
    if _fits(kind, small_b, first, tolerance):
        return ()
    nearest = _nearest_first(kind, small_b, first.settings)
    second = _first_form(kind, small_b, nearest, tolerance)
    if second is None:
        return None
    # the first was the simplest, which need not be the one that is nearest to the second's
    again = _nearest_first(kind, small_a, second.settings)
    first = _first_form(kind, small_a, again, tolerance) or first
    if _fits(kind, small_b, first, tolerance) or _fits(kind, small_a, second, tolerance):
        return ()
    return first, second


def _first_of_either(kind: Kind, a: LayerView, b: LayerView, tolerance: float) -> Form | None:
    """The first form that gives a's output of a's input, or b's, as what they are fed is mostly the
    same.
    """

    def fitting() -> Iterator[Settings]:
        counts: Counter[object] = Counter()
        for settings in kind.settings(a):
            if counts[settings["input"]] > MOST_TRIED:
                continue
            values = kind.output(a, settings)
            if min(distance(values, a.output), distance(values, b.output)) <= tolerance:
                yield settings
            counts[settings["input"]] += values is not None
            if counts.total() > MOST_TRIED_OF_ALL:
                return

    for settings in fitting():
        for view in (a, b):
            residual = distance(kind.output(view, settings), view.output)
            if residual <= tolerance:
                return Form(kind, settings, residual)
    return None


def _first_form(
    kind: Kind, view: LayerView, tried: Iterable[Settings], tolerance: float
) -> Form | None:
    """The first form that is surely within rounding, or else the first within the tolerance."""
    counts: Counter[object] = Counter()
    near: Form | None = None
    for settings in tried:
        if counts[settings["input"]] > MOST_TRIED:
            continue
        values = kind.output(view, settings)
        residual = distance(values, view.output)
        if residual <= tolerance / APART:
            return Form(kind, settings, residual)
        if residual <= tolerance and near is None:
            near = Form(kind, settings, residual)
        counts[settings["input"]] += values is not None
        if counts.total() > MOST_TRIED_OF_ALL:
            break
    return near


def _fits(kind: Kind, view: LayerView, form: Form, tolerance: float) -> bool:
    """Whether the other side's form gives this side's numbers as well, from any of its inputs."""
    enough = max(tolerance / APART, APART * form.residual)
    source = str(form.settings["input"])
    for name in [source] if source in view.inputs else view.inputs:
        values = kind.output(view, {**form.settings, "input": name})
        if distance(values, view.output) <= enough:
            return True
    return False


def _nearest_first(kind: Kind, view: LayerView, to: Settings) -> list[Settings]:
    return sorted(kind.settings(view), key=lambda settings: _count_apart(settings, to))


def _count_apart(settings: Settings, other: Settings) -> int:
    names = settings.keys() | other.keys()
    return sum(settings.get(name) != other.get(name) for name in names)


def in_words_of(name: object) -> str:
    """What feeds a layer, in words: "tanh of conv", "the input of fc"."""
    base, *steps = str(name).split(AFTER)
    if base.endswith(INPUT):
        base = f"the input of {base.removesuffix(INPUT)}"
    return " of ".join([*reversed(steps), base])


def side_by_side(layer: str, a: Sequence[str], b: Sequence[str]) -> str:
    """What a layer does on either side, in phrases that begin with a verb: "b's up pads 0 before
    and 1 after, a's 1 before and 1 after".
    """
    verb, _, rest = a[0].partition(" ")
    if len(a) == 1 and verb == b[0].partition(" ")[0]:
        return f"b's {layer} {b[0]}, a's {rest}"
    return f"b's {layer} {' and '.join(b)}, a's {' and '.join(a)}"


def spatial(array: Array, layout: object) -> Array:
    """An array with its channels second: (B, C, ...)."""
    return array if layout == "first" else np.moveaxis(array, -1, 1)


def back(array: Array, layout: object) -> Array:
    """The same in its own layout."""
    return array if layout == "first" else np.moveaxis(array, 1, -1)
