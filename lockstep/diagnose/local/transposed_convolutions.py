"""How a transposed convolution places its kernel, and from where it is cropped."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from lockstep.diagnose.local.convolutions import (
    TURNS,
    input_and_kernel,
    setting_words,
    turned,
    with_bias,
)
from lockstep.diagnose.local.forms import Settings, Words, back, side_by_side, spatial
from lockstep.diagnose.local.layer_view import LayerView
from lockstep.oracle.arithmetic import Array

__all__ = ["TRANSPOSED_CONVOLUTION", "shift_in_words"]

STRIDES = (1, 2, 3, 4)
DILATIONS = (1, 2)
AXES = {"torch": (0, 1), "flax": (-2, -1), "turned": (-1, -2)}
"""Layout of a kernel -> its axes of in and out."""
PAGE = "transposed-convolution-crop"
COUNTS = {1: "one place", 2: "two places", 3: "three places"}


class _TransposedConvolution:
    """Each input adds its multiple of the kernel to the output, `stride` places further than the
    input before; the whole is cropped from `start`.
    """

    is_by_example = True

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """The kernel as it is first, and any crop."""
        frames = list(_frames(view))
        for turns, biases in (((TURNS[0],), (True, False)), (TURNS, (True, False))):
            for frame, turn, bias in product(frames, turns, biases):
                for stride, dilation, starts in _places(view, frame):
                    yield {
                        **frame,
                        "stride": stride,
                        "dilation": dilation,
                        "start": starts,
                        "turn": turn,
                        "bias": bias,
                    }

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """The crop of the whole transposed convolution, and zeros beyond it."""
        parts = _parts(view, settings)
        if parts is None:
            return None
        x, kernel = parts
        kernel_turned = turned(kernel, settings["turn"])
        if kernel_turned is None or len(settings["start"]) != kernel.ndim - 2:  # type: ignore[arg-type]
            return None
        starts: Any = settings["start"]
        stride: Any = settings["stride"]
        dilation: Any = settings["dilation"]
        whole = _whole(x, kernel_turned, stride, dilation)
        lengths = spatial(view.output, settings["layout"]).shape[2:]
        y = _cropped(whole, starts, lengths)
        biased = with_bias(view, y, settings)
        return None if biased is None else back(biased, settings["layout"])

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """Another crop, or the settings that differ."""
        names = [n for n in ("stride", "dilation", "turn", "bias", "start") if a[n] != b[n]]
        if names == ["start"]:
            return _shifted(layer, a["start"], b["start"])
        if not names:
            return None
        of_a, of_b = ([_words(name, of[name]) for name in names] for of in (a, b))
        return Words("transposed-convolution", side_by_side(layer, of_a, of_b), PAGE)


def _words(name: str, value: Any) -> str:
    if name == "start":
        return f"crops from {_place(value)}"
    return setting_words(name, value)


def _shifted(layer: str, a: Any, b: Any) -> Words:
    """What another crop does to the output, which is moved as a whole."""
    steps = [of_a - of_b for of_a, of_b in zip(a, b)]
    crops = f"it crops from {_place(b)} where a crops from {_place(a)}"
    text = f"b's {layer} is a's shifted by {shift_in_words(steps)}: {crops}"
    return Words("transposed-convolution-crop", text, PAGE)


def shift_in_words(steps: Sequence[int]) -> str:
    """So many places along each axis: "one place in both axes", "2 places along axis 1"."""
    places = [COUNTS.get(abs(step), f"{abs(step)} places") for step in steps]
    if len(set(steps)) == 1:
        return f"{places[0]} in both axes" if len(steps) == 2 else places[0]
    each = [f"{count} along axis {axis}" for axis, count in enumerate(places, 1) if steps[axis - 1]]
    return " and ".join(each)


def _place(starts: Any) -> str:
    return str(starts[0]) if len(set(starts)) == 1 else str(tuple(starts))


def _frames(view: LayerView) -> Iterator[dict[str, Any]]:
    for source, layout, kernel in product(view.inputs, ("first", "last"), AXES):
        frame = {"input": source, "layout": layout, "kernel": kernel}
        parts = _parts(view, frame)
        if parts is not None and parts[1].shape[1] == spatial(view.output, layout).shape[1]:
            yield frame


def _parts(view: LayerView, settings: Settings) -> tuple[Array, Array] | None:
    """The input (B, C, ...) and the kernel (in, out, ...) of these layouts."""
    recorded = input_and_kernel(view, settings)
    if recorded is None:
        return None
    x, kernel = recorded
    kernel = np.moveaxis(kernel, AXES[str(settings["kernel"])], (0, 1))
    x = spatial(x, settings["layout"])
    return (x, kernel) if x.shape[1] == kernel.shape[0] else None


def _places(view: LayerView, frame: Settings) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """The strides, dilations and crops that give the output's size with few places beyond."""
    parts = _parts(view, frame)
    if parts is None:
        return
    lengths, sizes = parts[0].shape[2:], parts[1].shape[2:]
    outputs = spatial(view.output, frame["layout"]).shape[2:]
    largest = max(sizes)
    for stride in dict.fromkeys((*STRIDES, largest)):
        for dilation in DILATIONS if largest > 1 else (1,):
            reach = dilation * (largest - 1)
            wholes = [
                (length - 1) * stride + dilation * (size - 1) + 1
                for length, size in zip(lengths, sizes)
            ]
            spare = [whole - output for whole, output in zip(wholes, outputs)]
            # what is missing at the end is the padding of the output, less than a stride
            if not all(-max(stride, dilation) <= places <= 2 * reach for places in spare):
                continue
            each = [range(-1, reach + 1)] * len(spare)
            starts = sorted(product(*each), key=lambda start: (len(set(start)) > 1, start[0] < 0))
            for start in starts[:200]:
                yield stride, dilation, start


def _whole(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """The transposed convolution of an input (B, C, ...) before any crop."""
    lengths = [
        (length - 1) * stride + dilation * (size - 1) + 1
        for length, size in zip(x.shape[2:], kernel.shape[2:])
    ]
    whole = np.zeros((len(x), kernel.shape[1], *lengths))
    for place in np.ndindex(*kernel.shape[2:]):
        product_ = np.tensordot(x, kernel[(slice(None), slice(None), *place)], (1, 0))
        at = tuple(
            slice(dilation * p, dilation * p + stride * (length - 1) + 1, stride)
            for p, length in zip(place, x.shape[2:])
        )
        whole[(slice(None), slice(None), *at)] += np.moveaxis(product_, -1, 1)
    return whole


def _cropped(whole: Array, starts: tuple[int, ...], lengths: tuple[int, ...]) -> Array:
    """So many places of each axis from a start on; zeros where these lie outside."""
    y = whole
    for axis, (start, length) in enumerate(zip(starts, lengths), 2):
        before, after = max(-start, 0), max(start + length - y.shape[axis], 0)
        widths = [(0, 0)] * y.ndim
        widths[axis] = (before, after)
        y = np.pad(y, widths)
        y = np.take(y, range(start + before, start + before + length), axis)
    return y


TRANSPOSED_CONVOLUTION = _TransposedConvolution()
