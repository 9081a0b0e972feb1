"""In which order a layer meets the features of its input: flattened, turned, and multiplied."""

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np

from lockstep.diagnose.local.convolutions import bias_of
from lockstep.diagnose.local.forms import AFTER, Settings, Words, in_words_of
from lockstep.diagnose.local.layer_view import LayerView
from lockstep.oracle.arithmetic import Array

__all__ = ["FLATTENING", "LINEAR", "flattened"]

PAGE = "flatten-channels-first"
LETTERS = {3: "CL", 4: "CHW", 5: "CDHW"}
"""Axes of an input (B, C, ...) -> their letters without the batch."""
MOST_AXES = 5


class _Flattening:
    """The input's elements, its axes in an order, in the output's shape."""

    is_by_example = True

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """The order as it is first."""
        if view.parameters:
            return
        for source, x in view.inputs.items():
            if 2 < x.ndim <= MOST_AXES and x.size == view.output.size:
                for order in permutations(range(1, x.ndim)):
                    yield {"input": source, "order": order}

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """The input in that order."""
        x = view.inputs.get(str(settings["input"]))
        order: Any = settings["order"]
        if x is None or x.ndim != len(order) + 1 or x.size != view.output.size:
            return None
        return x.transpose(0, *order).reshape(view.output.shape)

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """The orders."""
        if a["order"] == b["order"]:
            return None
        return flattening_words(f"{layer} takes", a["order"], b["order"], str(a["input"]))


def flattening_words(who: str, a: Any, b: Any, source: str) -> Words:
    """That the features of an input are numbered otherwise."""
    text = (
        f"b's {who} the features of {in_words_of(source)} in the order {_letters(b)}, a's "
        f"{_letters(a)}: another axis comes first where they are flattened"
    )
    return Words("flatten-order", text, PAGE)


def _letters(order: Any) -> str:
    letters = LETTERS[len(order) + 1]
    return "(" + ", ".join(letters[axis - 1] for axis in order) + ")"


def flattened(x: Array, order: Any) -> Array:
    """An input (B, C, ...) as (B, features), its axes in an order."""
    return x.transpose(0, *order).reshape(len(x), -1)


class _Linear:
    """x W + b, with the kernel either way round, or with its rows in the order of another
    flattening.
    """

    is_by_example = True

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """The kernel that fits, on the input as it is, first."""
        for bias in (True, False):
            for source, x in view.inputs.items():
                for turn in (False, True):
                    for order in _orders(x, AFTER in source):
                        yield {"input": source, "turned": turn, "order": order, "bias": bias}

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """The product, and the bias."""
        x = view.inputs.get(str(settings["input"]))
        kernel = next((array for array in view.parameters.values() if array.ndim == 2), None)
        if x is None or kernel is None:
            return None
        order: Any = settings["order"]
        if order is not None:
            if x.ndim != len(order) + 1:
                return None
            x = flattened(x, order)
        if settings["turned"]:
            kernel = kernel.T
        if x.shape[-1] != kernel.shape[0] or view.output.shape[-1] != kernel.shape[1]:
            return None
        y = x @ kernel
        if not settings["bias"]:
            return np.asarray(y)
        bias = bias_of(view, kernel.shape[1])
        return None if bias is None else np.asarray(y + bias)

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """The order, the kernel's turn, or the bias."""
        if a["order"] != b["order"]:
            if a["order"] is None or b["order"] is None:
                return None
            return flattening_words(f"{layer} meets", a["order"], b["order"], str(a["input"]))
        if a["turned"] != b["turned"]:
            text = f"b's {layer} takes the transposed of the kernel that a's takes"
            return Words("kernel-transposed", text, "kernel-layout")
        if a["bias"] != b["bias"]:
            without = "a" if b["bias"] else "b"
            return Words("bias-missing", f"{without}'s {layer} is without its bias")
        return None


def _orders(x: Array, is_after_steps: bool) -> Iterator[tuple[int, ...] | None]:
    yield None
    if not 2 < x.ndim <= MOST_AXES:
        return
    if is_after_steps:
        yield tuple(range(1, x.ndim))
        yield (*range(2, x.ndim), 1)
    else:
        yield from permutations(range(1, x.ndim))


FLATTENING = _Flattening()
LINEAR = _Linear()
