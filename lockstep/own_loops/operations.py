"""The operations of one update in call order, as a trace lists them."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHUNK", "LIMIT", "MASKED", "OUTSIDE", "Operations", "result_norms"]

OUTSIDE = -1
"""The index of an input that no listed operation gave: a parameter, a batch, a buffer."""
LIMIT = 100_000
"""Operations that an update may list."""
CHUNK = 2**20
"""Elements that are widened to float64 at a time."""
MASKED = 1e8
"""Size from which on an element stands for a masked one, as -1e9 or the least float do."""


class Operations:
    """A listing of operations, without their tensors.

    Attributes:
        entries: for each result its layer, operation, line of source, shape, dtype and inputs,
            which are indices of earlier entries and `OUTSIDE`. A constant has no inputs.
        norms: for each result what `result_norms` gives.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.norms: list[tuple[float, ...]] = []

    def add(
        self,
        op: str,
        *,
        layer: str,
        line: str,
        shape: Sequence[int],
        dtype: str,
        inputs: Collection[int],
        norms: tuple[float, ...],
    ) -> int:
        """Append a result, and return its index.

        Args:
            op: the operation, as its framework names it: "aten.gelu", "dot_general".
            layer: the innermost layer that it belongs to, or "".
            line: the line of source that asked for it: "model.py:12 in forward", or "".
            shape: the result's.
            dtype: likewise, as the framework names it.
            inputs: indices of entries, and `OUTSIDE`.
            norms: what `result_norms` gives.
        """
        entry = {
            "layer": layer,
            "op": op,
            "line": line,
            "shape": [int(size) for size in shape],
            "dtype": dtype,
            "inputs": sorted(set(inputs)),
        }
        self.entries.append(entry)
        self.norms.append(norms)
        return len(self.entries) - 1

    def array(self) -> NDArray[np.float64]:
        """The norms as a trace holds them, shape (n, 4), float64."""
        return np.array(self.norms, np.float64).reshape(-1, 4)


def result_norms(array: NDArray[Any]) -> tuple[float, float, float, float]:
    """2-norm, sum, sum of absolute values and largest absolute value, in float64.

    They are the same for a transposed or reshaped array. Elements that are not finite, or of
    `MASKED` and more, are left out: of a masked array counts what the mask leaves, whatever it is
    filled with.

    Args:
        array: of any shape and of a real dtype; flags are 0 and 1.
    """
    squares = total = sizes = largest = 0.0
    flat = array.reshape(-1)
    for begin in range(0, flat.size, CHUNK):
        wide = flat[begin : begin + CHUNK].astype(np.float64)
        wide = wide[np.abs(wide) < MASKED]
        size = np.abs(wide)
        squares += float(np.square(wide).sum())
        total += float(wide.sum())
        sizes += float(size.sum())
        largest = max(largest, float(size.max(initial=0.0)))
    return float(np.sqrt(squares)), total, sizes, largest
