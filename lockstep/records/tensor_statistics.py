"""Three numbers of a tensor, recorded at every update: the tensor itself would be too large."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["STATISTICS", "WATCHED", "statistics_of"]

STATISTICS = ("mean", "root mean square", "largest")

WATCHED = ("forward", "gradients", "clip", "moments", "parameters", "average")
"""The families of arrays whose statistics can be recorded."""


def statistics_of(array: ArrayLike) -> tuple[float, float, float]:
    """Mean, root mean square and largest absolute value of a tensor, in float64.

    The tensor has at least one element. The same values give the same bits, whatever their dtype
    and layout in memory. A value that is not finite makes the results not finite.
    """
    wide = np.ascontiguousarray(array, dtype=np.float64)
    with np.errstate(all="ignore"):
        mean = wide.mean()
        root_mean_square = np.sqrt(np.square(wide).mean())
        largest = np.abs(wide).max()
    return float(mean), float(root_mean_square), float(largest)
