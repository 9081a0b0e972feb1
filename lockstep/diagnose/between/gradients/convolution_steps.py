"""The backward pass of a convolution, computed again."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lockstep.diagnose.between.pair import Arrays
from lockstep.diagnose.local.convolutions import CONVOLUTION, OWN
from lockstep.diagnose.local.forms import Settings, back, spatial
from lockstep.diagnose.local.layer_view import LayerView, distance
from lockstep.diagnose.local.windows import padded, windows_of
from lockstep.oracle.arithmetic import Array

__all__ = ["ConvolutionStep", "convolution_of"]

EXAMPLES = 2
MOST_TRIED = 200


@dataclass(frozen=True)
class ConvolutionStep:
    """A convolution of one group, whose kernel is as it is, and its input.

    Attributes:
        view: of the layer.
        x: its input, in its own layout.
        settings: as `lockstep.diagnose.local.convolutions` has them.
    """

    view: LayerView
    x: Array
    settings: Settings

    @property
    def kernel(self) -> Array:
        """The kernel (out, in, ...)."""
        kernel = next(a for a in self.view.parameters.values() if a.ndim == self.x.ndim)
        is_last = self.settings["kernel"] == "last"
        return np.moveaxis(kernel, (-1, -2), (0, 1)) if is_last else kernel

    def gradients(self, delta: Array) -> Arrays:
        """The gradients of kernel and bias, by their names, from the gradient of the output."""
        of_output = spatial(delta, self.settings["layout"])
        stride: Any = self.settings["stride"]
        dilation: Any = self.settings["dilation"]
        pads: Any = self.settings["pads"]
        x = padded(spatial(self.x, self.settings["layout"]), pads)
        axes = of_output.ndim - 2
        windows = None if x is None else windows_of(x, self.kernel.shape[2:], stride, dilation)
        if windows is None:
            return {}
        over = (0, *range(2, 2 + axes))
        of_kernel = np.tensordot(of_output, windows, (over, over))
        if self.settings["kernel"] == "last":
            of_kernel = np.moveaxis(of_kernel, (0, 1), (-1, -2))
        gradients: Arrays = {}
        for role, array in self.view.parameters.items():
            if array.ndim == self.x.ndim:
                gradients[f"{self.view.name}.{role}"] = of_kernel
            elif array.shape == of_output.shape[1:2]:
                gradients[f"{self.view.name}.{role}"] = of_output.sum(over)
        return gradients

    def gradient_by_input(self, delta: Array) -> Array:
        """The gradient by the input from the one by the output."""
        of_output = spatial(delta, self.settings["layout"])
        x = spatial(self.x, self.settings["layout"])
        stride: Any = self.settings["stride"]
        dilation: Any = self.settings["dilation"]
        pads: Any = self.settings["pads"]
        lengths = [length + before + after for length, (before, after) in zip(x.shape[2:], pads)]
        whole = np.zeros((*x.shape[:2], *lengths))
        for place in np.ndindex(*self.kernel.shape[2:]):
            part = np.tensordot(of_output, self.kernel[(slice(None), slice(None), *place)], (1, 0))
            at = tuple(
                slice(dilation * p, dilation * p + stride * (n - 1) + 1, stride)
                for p, n in zip(place, of_output.shape[2:])
            )
            whole[(slice(None), slice(None), *at)] += np.moveaxis(part, -1, 1)
        inside = tuple(slice(before, before + n) for n, (before, _) in zip(x.shape[2:], pads))
        return back(whole[(slice(None), slice(None), *inside)], self.settings["layout"])


def convolution_of(view: LayerView, x: Array, tolerance: float) -> ConvolutionStep | None:
    """The plain convolution that a layer is of an input; None where it is none."""
    if x.ndim < 3 or all(array.ndim != x.ndim for array in view.parameters.values()):
        return None
    alone = replace(view, inputs={"x": x})
    small = alone.first_examples(EXAMPLES)
    for count, settings in enumerate(CONVOLUTION.settings(small)):
        if count == MOST_TRIED:
            return None
        pads: Any = settings["pads"]
        if min(min(pair) for pair in pads) < 0 or settings["turn"] != OWN:
            continue
        if distance(CONVOLUTION.output(small, settings), small.output) <= tolerance:
            step = ConvolutionStep(alone, x, settings)
            channels = spatial(x, settings["layout"]).shape[1]
            return step if step.kernel.shape[1] == channels else None
    return None
