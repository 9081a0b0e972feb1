"""How a layer normalises its own kernel: by a spectral norm after so many power iterations, or by
the norms of its rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lockstep.diagnose.local.convolutions import CONVOLUTION
from lockstep.diagnose.local.features import LINEAR
from lockstep.diagnose.local.forms import Kind, Settings, Words
from lockstep.diagnose.local.layer_view import LayerView
from lockstep.oracle.arithmetic import Array

__all__ = ["NORMED_KERNEL", "kernel_parts"]

ITERATIONS = {
    "one power iteration": 1,
    "no power iteration": 0,
    **{f"{count} power iterations": count for count in (2, 3, 5, 15)},
}
"""Words -> how often u and v are iterated before the norm is taken."""
EXACT = "the singular value itself"
NONE = "nothing"
ROWS = "the norm of each row"
WHOLE = "the norm of the whole"
COLUMNS = "the norm of each column"
MOST_INNER = 40
"""Settings of the layer itself that are tried with each normalised kernel."""
PAGE = "spectral-norm-start"


class KernelParts(NamedTuple):
    """A kernel (out, rest), its shape as it is kept, and its vectors u (out,) and v (rest,) or its
    sizes g (out,); None for what it has not.
    """

    kernel: Array
    shape: tuple[int, ...]
    u: Array | None
    v: Array | None
    g: Array | None


class _NormedKernel:
    """A linear layer or a convolution of W / sigma(W), or of g W / |W|."""

    is_by_example = True

    def settings(self, view: LayerView) -> Iterator[Settings]:
        """One power iteration first, as of a training pass."""
        parts = kernel_parts(view.nested)
        if parts is None:
            return
        ways = (ROWS, WHOLE, COLUMNS, NONE) if parts.u is None else (*ITERATIONS, EXACT, NONE)
        for way in ways:
            inner = _with_kernel(view, parts, way)
            if inner is None:
                continue
            for count, settings in enumerate(_kind_of(inner).settings(inner)):
                if count == MOST_INNER:
                    break
                yield {**settings, "way": way}

    def output(self, view: LayerView, settings: Settings) -> Array | None:
        """What the layer gives with its normalised kernel."""
        parts = kernel_parts(view.nested)
        inner = None if parts is None else _with_kernel(view, parts, str(settings["way"]))
        return None if inner is None else _kind_of(inner).output(inner, settings)

    def words(self, layer: str, a: Settings, b: Settings) -> Words | None:
        """What the kernel is divided by, where that differs alone."""
        if a["way"] == b["way"]:
            return None
        of_a, of_b = (_divisor(str(of["way"])) for of in (a, b))
        key = "spectral-norm-iterations" if "power" in of_a + of_b else "kernel-norm"
        return Words(key, f"b's {layer} divides its kernel by {of_b}, a's by {of_a}", PAGE)


def _divisor(way: str) -> str:
    return f"its spectral norm after {way}" if way in ITERATIONS else way


def _kind_of(view: LayerView) -> Kind:
    return LINEAR if any(array.ndim == 2 for array in view.parameters.values()) else CONVOLUTION


def kernel_parts(arrays: Mapping[str, Array]) -> KernelParts | None:
    """The kernel among a layer's parameters and what normalises it; None where nothing does."""
    kernels = [array for array in arrays.values() if array.ndim >= 2]
    vectors = {name: array for name, array in arrays.items() if array.ndim == 1}
    u = next((array for name, array in vectors.items() if name.endswith("u")), None)
    v = next((array for name, array in vectors.items() if name.endswith("v")), None)
    if u is not None and v is not None and len(kernels) == 1:
        kernel = kernels[0]
        if kernel.shape[0] == len(u) and kernel.size == u.size * v.size:
            return KernelParts(kernel.reshape(len(u), -1), kernel.shape, u, v, None)
        return None
    sizes = [array for array in kernels if array.size == array.shape[0]]
    wholes = [array for array in kernels if array.size > array.shape[0]]
    if len(sizes) == 1 and len(wholes) == 1 and len(sizes[0]) == len(wholes[0]):
        kernel = wholes[0]
        flat = kernel.reshape(len(kernel), -1)
        return KernelParts(flat, kernel.shape, None, None, sizes[0].reshape(-1))
    return None


def _with_kernel(view: LayerView, parts: KernelParts, way: str) -> LayerView | None:
    """The layer with a kernel that is normalised already."""
    kernel = parts.kernel
    if parts.g is not None:
        axes = {ROWS: 1, COLUMNS: 0, WHOLE: None}
        if way != NONE:
            if way not in axes:
                return None
            norm = np.sqrt(np.square(kernel).sum(axes[way], keepdims=True))
            kernel = parts.g[:, None] * kernel / norm
    elif way != NONE:
        kernel = kernel / _sigma(parts, way)
    if not np.isfinite(kernel).all():
        return None
    biases = {
        name: array
        for name, array in view.nested.items()
        if "bias" in name and array.shape == kernel.shape[:1]
    }
    return replace(view, parameters={"kernel": kernel.reshape(parts.shape), **biases})


def _sigma(parts: KernelParts, way: str) -> float:
    kernel, u, v = parts.kernel, parts.u, parts.v
    if way == EXACT or u is None or v is None:
        return float(np.linalg.norm(kernel, 2))
    for _ in range(ITERATIONS[way]):
        v = kernel.T @ u
        v = v / max(float(np.linalg.norm(v)), 1e-12)
        u = kernel @ v
        u = u / max(float(np.linalg.norm(u)), 1e-12)
    return float(u @ kernel @ v)


NORMED_KERNEL = _NormedKernel()
