"""Three numbers of a tensor, kept of every update where the tensor itself would take too much."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["STATISTICS", "WATCHED", "statistics_of"]

STATISTICS = ("mean", "root mean square", "largest")

WATCHED = ("forward", "gradients", "clip", "moments", "parameters", "average")
"""Families of which they can be kept."""


def statistics_of(array: ArrayLike) -> tuple[float, float, float]:
    """Mean, root mean square and largest absolute value, in float64, of a tensor with elements: the
    same bits for the same values, whatever their dtype and layout in memory, and not finite where a
    value is not."""
    wide = np.ascontiguousarray(array, dtype=np.float64)
    with np.errstate(all="ignore"):
        return float(wide.mean()), float(np.sqrt(np.square(wide).mean())), float(np.abs(wide).max())
