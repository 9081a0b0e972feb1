"""How a layer without parameters sums up the places of its input: windows that slide, or axes that
vanish.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from lockstep.diagnose.local.forms import AFTER, Settings, Words, back, in_words_of, spatial
from lockstep.diagnose.local.layer_view import LayerView
from lockstep.diagnose.local.windows import Pads, in_words, padded, pads_of, windows_of
from lockstep.oracle.arithmetic import Array

__all__ = ["POOLING", "REDUCTION", "reduced"]

OPERATIONS = ("mean", "largest", "sum", "smallest", "root of the mean square")
WHOLES = ("everywhere", "inside", "inside or padded")
"""What a mean is divided by: the window's places, those inside the input, or those inside the input
and its padding, which a window may go beyond."""
MOST_WINDOW = 8
USUAL_WINDOWS = (2, 3, 5)
"""Sizes of windows that are tried after steps that were not recorded."""
STRIDES = (1, 2, 3, 4)
NEVER = {"largest": -np.inf, "smallest": np.inf}


class _Pooling:
    """Windows of an input (B, C, ...), and one number of each."""

    is_by_example = True

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """Means and maxima of small windows first."""
        if view.parameters or view.output.ndim < 3:
            return
        for operations in (OPERATIONS[:2], OPERATIONS[2:]):
            for source, x in view.inputs.items():
                for layout in ("first", "last"):
                    if x.ndim == view.output.ndim and _channels_agree(x, view.output, layout):
                        yield from _slides(view, operations, source, layout)

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """The pooled input."""
        x = view.inputs.get(str(settings["input"]))
        sizes: Any = settings["window"]
        if x is None or x.ndim != len(sizes) + 2:
            return None
        y = _pooled(spatial(x, settings["layout"]), settings)
        return None if y is None else back(y, settings["layout"])

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """The divisor at the border alone, or the settings that differ."""
        names = [
            name
            for name in ("operation", "window", "stride", "pads", "over", "zeros")
            if a[name] != b[name]
        ]
        if not names:
            return None
        sizes: Any = a["window"]
        if names == ["over"]:
            places = math.prod(sizes)
            text = (
                f"a's {layer} divides by {_divisor(a, places)}, b's by {_divisor(b, places)}: "
                "they differ at the border alone"
            )
            return Words("pool-counts-pads", text, "average-pool-counts-its-padding")
        of_a, of_b = (" ".join(_words(name, of) for name in names) for of in (a, b))
        key = {"pads": "other-padding"}.get(names[0], "other-pooling")
        page = "same-padding-with-stride" if key == "other-padding" else ""
        return Words(key, f"b's {layer} {of_b}, a's {of_a}", page)


def _divisor(settings: Settings, places: int) -> str:
    if settings["over"] == "everywhere":
        return f"{places} everywhere"
    if settings["over"] == "inside":
        return "the places inside the input"
    return "the places inside the input and its padding"


def _words(name: str, settings: Settings) -> str:
    value: Any = settings[name]
    if name == "operation":
        return f"takes the {value} of each window"
    if name == "window":
        return f"of {' x '.join(map(str, value))}"
    if name == "stride":
        return f"at a stride of {value}"
    if name == "over":
        sizes: Any = settings["window"]
        return f"divided by {_divisor(settings, math.prod(sizes))}"
    if name == "zeros":
        return "counts its padding as zeros" if value else "leaves its padding out"
    return f"pads {in_words(value)}"


def _channels_agree(x: Array, y: Array, layout: str) -> bool:
    axis = 1 if layout == "first" else -1
    return (len(x), x.shape[axis]) == (len(y), y.shape[axis])


def _slides(
    view: LayerView, operations: Sequence[str], source: str, layout: str
) -> Iterator[dict[str, Any]]:
    for sizes, stride, pads in _places(view, source, layout):
        frame = {"input": source, "layout": layout, "window": sizes, "stride": stride}
        for operation in operations:
            for rest in _borders(operation, pads):
                yield {**frame, "operation": operation, **rest}


def _places(
    view: LayerView, source: str, layout: str
) -> Iterator[tuple[tuple[int, ...], int, Pads]]:
    """The windows, strides and pads that give the output's size; the usual ones alone where the
    input was not recorded itself.
    """
    lengths = spatial(view.inputs[source], layout).shape[2:]
    outputs = spatial(view.output, layout).shape[2:]
    is_plain = AFTER not in source
    most_uneven = MOST_WINDOW if is_plain else 1
    for size in range(2, MOST_WINDOW + 1) if is_plain else USUAL_WINDOWS:
        shapes = list(_shapes(size, len(lengths))) if is_plain else [(size,) * len(lengths)]
        for sizes, stride in product(dict.fromkeys(shapes), dict.fromkeys((size, *STRIDES))):
            for pads in pads_of(lengths, outputs, sizes, stride):
                if all(_is_usual(pair, size, most_uneven) for pair in pads):
                    yield sizes, stride, pads


def _is_usual(pair: tuple[int, int], size: int, most_uneven: int) -> bool:
    return min(pair) >= 0 and max(pair) <= size and abs(pair[0] - pair[1]) <= most_uneven


def _borders(operation: str, pads: Any) -> Iterator[dict[str, Any]]:
    """How an operation may treat places beyond the input."""
    yield {"pads": pads, "over": WHOLES[0], "zeros": False}
    if not any(max(pair) for pair in pads):
        return
    if operation == "mean":
        for over in WHOLES[1:]:
            yield {"pads": pads, "over": over, "zeros": False}
    if operation in NEVER:
        yield {"pads": pads, "over": WHOLES[0], "zeros": True}


def _shapes(size: int, axes: int) -> Iterator[tuple[int, ...]]:
    yield (size,) * axes
    if axes == 2:
        yield size, 1
        yield 1, size


def _pooled(x: Array, settings: Settings) -> Array | None:
    pads: Any = settings["pads"]
    sizes: Any = settings["window"]
    stride: Any = settings["stride"]
    operation = str(settings["operation"])
    fill = 0.0 if settings["zeros"] else NEVER.get(operation, 0.0)
    x_padded = padded(x, pads, value=fill)
    windows = None if x_padded is None else windows_of(x_padded, sizes, stride)
    if windows is None:
        return None
    over = tuple(range(windows.ndim - len(sizes), windows.ndim))
    if operation in NEVER:
        return np.asarray(windows.max(over) if operation == "largest" else windows.min(over))
    if operation == "root of the mean square":
        return np.asarray(np.sqrt(np.square(windows).mean(over)))
    total = windows.sum(over)
    if operation == "sum":
        return np.asarray(total)
    counts: Array | float = float(math.prod(sizes))
    if settings["over"] != "everywhere":
        ones = np.ones((1, 1, *x.shape[2:]))
        if settings["over"] == "inside or padded":  # the same on both sides of each axis
            before = tuple((pair[0], min(pair)) for pair in pads)
            after = tuple((0, pair[1] - min(pair)) for pair in pads)
            inner = padded(ones, before, value=1.0)
            places = None if inner is None else padded(inner, after)
        else:
            places = padded(ones, pads)
        within = None if places is None else windows_of(places, sizes, stride)
        if within is None:
            return None
        counts = within.sum(over)
    return np.asarray(total / counts)


SUMMARIES = ("mean", "largest", "sum", "first", "last", "smallest")


class _Reduction:
    """One number, or one entry, for some axes of the input."""

    is_by_example = True

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """Means first; the axes in their order."""
        if view.parameters:
            return
        for summary in SUMMARIES:
            for source, x in view.inputs.items():
                if x.size <= view.output.size:
                    continue
                for count in range(1, x.ndim):
                    for axes in combinations(range(1, x.ndim), count):
                        if summary in ("first", "last") and count > 1:
                            continue
                        yield {"input": source, "summary": summary, "axes": axes}

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """The input with these axes summed up."""
        x = view.inputs.get(str(settings["input"]))
        axes: Any = settings["axes"]
        if x is None or max(axes) >= x.ndim:
            return None
        y = reduced(x, str(settings["summary"]), axes)
        return y.reshape(view.output.shape) if y.size == view.output.size else None

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """The summaries, or the axes."""
        names = [name for name in ("summary", "axes") if a[name] != b[name]]
        if not names:
            return None
        of_a, of_b = (
            f"takes the {of['summary']} over {_axes(of['axes'])} of {in_words_of(of['input'])}"
            for of in (a, b)
        )
        return Words("other-reduction", f"b's {layer} {of_b}, a's {of_a}")


def _axes(axes: Any) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"


def reduced(x: Array, summary: str, axes: tuple[int, ...]) -> Array:
    """An input without these axes."""
    if summary in ("first", "last"):
        return np.asarray(np.take(x, 0 if summary == "first" else -1, axes[0]))
    functions: dict[str, Callable[..., Array]] = {
        "mean": np.mean,
        "largest": np.max,
        "sum": np.sum,
        "smallest": np.min,
    }
    return np.asarray(functions[summary](x, axis=axes))


POOLING = _Pooling()
REDUCTION = _Reduction()
