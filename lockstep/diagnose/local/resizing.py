"""How an image is enlarged or made smaller: where a pixel lies, and what its neighbours weigh."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from lockstep.diagnose.local.forms import Settings, Words, back, spatial
from lockstep.diagnose.local.layer_view import LayerView
from lockstep.oracle.arithmetic import Array

__all__ = ["RESIZING"]

METHODS = (
    "nearest",
    "linear",
    "cubic with a of -0.75",
    "cubic with a of -0.5",
    "mean of the area",
    "Lanczos of 3",
    "Lanczos of 5",
)
CENTRES = ("half-pixel centres", "aligned corners", "centres at the corners")
ROUNDINGS = ("down", "to the nearest", "up")
EDGES = ("repeated", "left out")
PAGE = "resize-centres-and-antialias"


class _Resizing:
    """The product of an input (B, C, ...) with one matrix of weights along each axis."""

    is_by_example = True

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """Nearest and linear first."""
        if view.parameters or view.output.ndim < 3:
            return
        for source, x in view.inputs.items():
            for layout in ("first", "last"):
                if x.ndim != view.output.ndim:
                    continue
                given, taken = spatial(x, layout), spatial(view.output, layout)
                if given.shape[:2] == taken.shape[:2] and given.shape != taken.shape:
                    is_smaller = all(m <= n for n, m in zip(given.shape, taken.shape))
                    yield from _ways(source, layout, is_smaller)

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """The resized input."""
        x = view.inputs.get(str(settings["input"]))
        if x is None or x.ndim != view.output.ndim:
            return None
        y = spatial(x, settings["layout"])
        lengths = spatial(view.output, settings["layout"]).shape[2:]
        for axis, length in enumerate(lengths, 2):
            if y.shape[axis] == length:
                continue
            weights = _weights(
                y.shape[axis],
                length,
                str(settings["method"]),
                str(settings["centres"]),
                str(settings["rounding"]),
                str(settings["edge"]),
                bool(settings["antialias"]),
            )
            if _is_crop(weights):
                return None
            y = np.moveaxis(np.tensordot(y, weights, (axis, 1)), -1, axis)
        return back(y, settings["layout"])

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """The settings that differ."""
        names = [
            name
            for name in ("method", "centres", "rounding", "edge", "antialias")
            if a[name] != b[name]
        ]
        if not names:
            return None
        if "method" in names:  # the others come with it
            names = [name for name in names if name in ("method", "centres", "antialias")]
        of_a, of_b = (", ".join(_words(name, of[name]) for name in names) for of in (a, b))
        return Words("other-resizing", f"b's {layer} resizes {of_b}, a's {of_a}", PAGE)


def _words(name: str, value: Any) -> str:
    if name == "method":
        return f"by {value}"
    if name == "centres":
        return f"with {value}"
    if name == "rounding":
        return f"rounding {value}"
    if name == "edge":
        return f"with what is outside {value}"
    return "with antialiasing" if value else "without antialiasing"


def _ways(source: str, layout: str, is_smaller: bool) -> Iterator[dict[str, Any]]:
    for method, centres in product(METHODS, CENTRES):
        frame = {"input": source, "layout": layout, "method": method, "centres": centres}
        if method == "nearest":
            for rounding in ROUNDINGS:
                yield {**frame, "rounding": rounding, "edge": EDGES[0], "antialias": False}
            continue
        if method == "mean of the area":
            if centres == CENTRES[0] and is_smaller:  # else it is the nearest
                yield {**frame, "rounding": "", "edge": EDGES[0], "antialias": False}
            continue
        for antialias, edge in product((False, True), EDGES):
            yield {**frame, "rounding": "", "edge": edge, "antialias": antialias}


def _is_crop(weights: Array) -> bool:
    """Whether neighbours are taken as they are: a crop, and no resizing."""
    rows, places = np.nonzero(weights)
    return len(rows) == len(weights) and bool((np.diff(places) == 1).all())


@lru_cache(maxsize=512)
def _weights(
    given: int, taken: int, method: str, centres: str, rounding: str, edge: str, antialias: bool
) -> Array:
    """What each of the `given` places weighs in each of the `taken`: (taken, given)."""
    if method == "mean of the area":
        return _areas(given, taken)
    places = _positions(given, taken, centres)
    weights = np.zeros((taken, given))
    if method == "nearest":
        if rounding == "down":
            # as frameworks compute it: the left edge of the output's pixel
            left = np.arange(taken) * given / taken if centres != CENTRES[1] else places
            index = np.floor(left + 1e-9) if centres != CENTRES[0] else np.floor(places + 0.5)
        else:
            index = np.rint(places) if rounding == "to the nearest" else np.ceil(places - 1e-9)
        weights[np.arange(taken), np.clip(index, 0, given - 1).astype(int)] = 1.0
        return weights
    scale = max(given / taken, 1.0) if antialias else 1.0
    reach = int(np.ceil(5 * scale)) + 1
    for row, place in enumerate(places):
        for at in range(int(np.floor(place)) - reach, int(np.floor(place)) + reach + 1):
            weight = _kernel((place - at) / scale, method)
            is_inside = 0 <= at < given
            if weight and (is_inside or edge == EDGES[0]):
                weights[row, min(max(at, 0), given - 1)] += weight
    total = weights.sum(axis=1, keepdims=True)
    return weights / np.where(total == 0, 1.0, total)


def _positions(given: int, taken: int, centres: str) -> Array:
    """Where the places of the output lie in the input."""
    index = np.arange(taken, dtype=np.float64)
    if centres == CENTRES[1]:
        return index * ((given - 1) / (taken - 1)) if taken > 1 else index
    if centres == CENTRES[2]:
        return index * (given / taken)
    return (index + 0.5) * (given / taken) - 0.5


def _kernel(x: float, method: str) -> float:
    x = abs(x)
    if method == "linear":
        return max(1 - x, 0.0)
    if method.startswith("Lanczos"):
        a = float(method[-1])
        return float(np.sinc(x) * np.sinc(x / a)) if x < a else 0.0
    a = -0.75 if "0.75" in method else -0.5
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _areas(given: int, taken: int) -> Array:
    weights = np.zeros((taken, given))
    for row in range(taken):
        begin, end = row * given // taken, -(-(row + 1) * given // taken)
        weights[row, begin:end] = 1 / (end - begin)
    return weights


RESIZING = _Resizing()
