"""How a convolution slides its kernel: padding, stride, dilation, and which way round."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lockstep.diagnose.local.forms import AFTER, Settings, Words, back, side_by_side, spatial
from lockstep.diagnose.local.layer_view import LayerView
from lockstep.diagnose.local.windows import STRIDES, in_words, padded, pads_of, windows_of
from lockstep.oracle.arithmetic import Array

__all__ = [
    "CONVOLUTION",
    "OWN",
    "bias_of",
    "input_and_kernel",
    "setting_words",
    "turned",
    "with_bias",
]

DILATIONS = (1, 2, 3, 4)
MODES = ("reflect", "edge", "wrap")
LAYOUTS = ("first", "last")
OWN = "as it is"
FLIPPED = "flipped"
EXCHANGED = "with its spatial axes exchanged"
SWAPPED = "with in and out exchanged"
REVERSED = "with the channels of its input in reverse"
TURNS = (OWN, FLIPPED, EXCHANGED, SWAPPED, "flipped and with in and out exchanged")
KEYS = {
    "stride": ("convolution-stride", ""),
    "dilation": ("convolution-dilation", ""),
    "pads": ("other-padding", "same-padding-with-stride"),
    "mode": ("padding-mode", ""),
    "turn": ("convolution-kernel-turned", "convolution-flips-its-kernel"),
    "bias": ("bias-missing", ""),
}
"""Setting of a convolution -> the key of a cause, and its page."""
MODE_WORDS = {"reflect": "by reflection", "edge": "by repeating the edge", "wrap": "around"}


def kernels_of(view: LayerView) -> Iterator[Array]:
    """The kernels of a layer, which have as many axes as its output."""
    for array in view.parameters.values():
        if array.ndim == view.output.ndim >= 3:
            yield array


def input_and_kernel(view: LayerView, settings: Settings) -> tuple[Array, Array] | None:
    """The input of these settings and the layer's kernel, as they were recorded; None where either
    lacks, or where they have other numbers of axes.
    """
    x = view.inputs.get(str(settings["input"]))
    kernel = next(kernels_of(view), None)
    return None if x is None or kernel is None or x.ndim != kernel.ndim else (x, kernel)


def with_bias(view: LayerView, y: Array, settings: Settings) -> Array | None:
    """An output (B, C, ...) with the layer's bias, where the settings add one; None where they do
    and the layer has none, or one of zeros.
    """
    if not settings["bias"]:
        return y
    bias = bias_of(view, y.shape[1])
    return None if bias is None else y + bias.reshape(-1, *([1] * (y.ndim - 2)))


def bias_of(view: LayerView, channels: int) -> Array | None:
    """The bias of a layer; None where it has none, or one of zeros."""
    for role, array in view.parameters.items():
        if "bias" in role and array.shape == (channels,) and array.any():
            return array
    return None


def setting_words(name: str, value: Any) -> str:
    """What a convolution of either kind does by a setting, in words."""
    if name == "bias":
        return "adds its bias" if value else "is without its bias"
    if name == "turn":
        return f"takes its kernel {value}"
    return f"has a {name} of {value}"


def turned(kernel: Array, turn: object) -> Array | None:
    """A kernel (out, in, ...) as it is applied; None where the turn does not fit its shape."""
    axes = tuple(range(2, kernel.ndim))
    text = str(turn)
    if text == REVERSED:
        return np.flip(kernel, 1)
    if text == EXCHANGED:
        is_square = kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3]
        return np.swapaxes(kernel, 2, 3) if is_square else None
    if SWAPPED in text:
        if kernel.shape[0] != kernel.shape[1]:
            return None
        kernel = np.swapaxes(kernel, 0, 1)
    return np.flip(kernel, axes) if FLIPPED in text else kernel


class _Convolution:
    """y[o] = sum over c, k of w[o, c, k] x[c, k + position] + b[o], the kernel as PyTorch and Flax
    apply it: a cross-correlation.
    """

    is_by_example = True

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """Zeros around the input first, then what is rarer."""
        for modes, turns, biases in (
            (("zeros",), (OWN,), (True,)),
            (("zeros",), (OWN,), (False,)),
            (("zeros",), (*TURNS[1:], REVERSED), (True, False)),
            (MODES, (OWN,), (True, False)),
        ):
            for frame in _frames(view):
                is_plain = AFTER not in str(frame["input"])
                is_usual = (modes, turns) == (("zeros",), (OWN,))
                if not (is_plain or is_usual):
                    continue
                for stride, dilation, pads in _slides(view, frame):
                    if not (is_plain and is_usual) and (dilation > 1 or not _are_even(pads)):
                        continue
                    for mode in modes:
                        for turn in turns:
                            for bias in biases:
                                yield {
                                    **frame,
                                    "stride": stride,
                                    "dilation": dilation,
                                    "pads": pads,
                                    "mode": mode,
                                    "turn": turn,
                                    "bias": bias,
                                }

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """The convolution of the input with the layer's own kernel and bias."""
        parts = _parts(view, settings)
        if parts is None:
            return None
        x, kernel = parts
        kernel_turned = turned(kernel, settings["turn"])
        pads: Any = settings["pads"]
        if kernel_turned is None or len(pads) != kernel.ndim - 2:
            return None
        groups = x.shape[1] // kernel_turned.shape[1]
        y = _convolved(x, kernel_turned, settings, groups)
        biased = None if y is None else with_bias(view, y, settings)
        return None if biased is None else back(biased, settings["layout"])

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """The settings that differ."""
        names = [name for name in KEYS if a[name] != b[name]]
        if not names:
            return None
        of_a, of_b = ([_words(name, of[name]) for name in names] for of in (a, b))
        key, page = KEYS[names[0]]
        return Words(key, side_by_side(layer, of_a, of_b), page)


def _words(name: str, value: Any) -> str:
    if name == "pads":
        return f"pads {in_words(value)}"
    if name == "mode":
        return "pads with zeros" if value == "zeros" else f"pads {MODE_WORDS[value]}"
    return setting_words(name, value)


def _are_even(pads: Any) -> bool:
    """Whether as much is added before as after, or one place less."""
    return all(min(pair) >= 0 and abs(pair[0] - pair[1]) <= 1 for pair in pads)


def _frames(view: LayerView) -> Iterator[dict[str, Any]]:
    """The inputs, and the layouts of data and kernel, that fit the shapes."""
    for source, x in view.inputs.items():
        for kernel in kernels_of(view):
            for layout in LAYOUTS:
                for kernel_layout in LAYOUTS:
                    frame = {"input": source, "layout": layout, "kernel": kernel_layout}
                    parts = _parts(view, frame)
                    if parts is None or x.ndim != kernel.ndim:
                        continue
                    channels = spatial(view.output, layout).shape[1]
                    given = parts[0].shape[1]
                    if parts[1].shape[0] == channels and given % parts[1].shape[1] == 0:
                        yield frame


def _parts(view: LayerView, settings: Settings) -> tuple[Array, Array] | None:
    """The input (B, C, ...) and the kernel (out, in, ...) of these layouts."""
    recorded = input_and_kernel(view, settings)
    if recorded is None:
        return None
    x, kernel = recorded
    if settings["kernel"] == "last":
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
    x = spatial(x, settings["layout"])
    is_whole = x.shape[1] % kernel.shape[1] == 0 and x.shape[1] >= kernel.shape[1]
    return (x, kernel) if is_whole else None


def _slides(view: LayerView, frame: Settings) -> Iterator[tuple[int, int, Any]]:
    """The strides, dilations and pads that give the output's size."""
    parts = _parts(view, frame)
    if parts is None:
        return
    lengths = parts[0].shape[2:]
    sizes = parts[1].shape[2:]
    outputs = spatial(view.output, frame["layout"]).shape[2:]
    strides = dict.fromkeys((*STRIDES, max(lengths[0] // max(outputs[0], 1), 1), max(sizes)))
    for dilation in DILATIONS if max(sizes) > 1 else (1,):
        reaches = [dilation * (size - 1) + 1 for size in sizes]
        for stride in strides:
            for pads in pads_of(lengths, outputs, reaches, stride):
                yield stride, dilation, pads


def _convolved(x: Array, kernel: Array, settings: Settings, groups: int) -> Array | None:
    pads: Any = settings["pads"]
    stride: Any = settings["stride"]
    dilation: Any = settings["dilation"]
    x_padded = padded(x, pads, str(settings["mode"]))
    if x_padded is None:
        return None
    windows = windows_of(x_padded, kernel.shape[2:], stride, dilation)
    if windows is None or kernel.shape[0] % groups:
        return None
    axes = kernel.ndim - 2
    outs, ins = kernel.shape[0] // groups, kernel.shape[1]
    parts = []
    for group in range(groups):
        of_input = windows[:, group * ins : (group + 1) * ins]
        of_kernel = kernel[group * outs : (group + 1) * outs]
        over = (1, *range(of_input.ndim - axes, of_input.ndim))
        y = np.tensordot(of_input, of_kernel, (over, (1, *range(2, of_kernel.ndim))))
        parts.append(np.moveaxis(y, -1, 1))
    return np.concatenate(parts, axis=1)


CONVOLUTION = _Convolution()
