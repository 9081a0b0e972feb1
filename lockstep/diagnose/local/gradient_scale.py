"""By how much the gradient was scaled on its way to the optimizer, and to which norm."""

from collections.abc import Mapping

import numpy as np

from lockstep.diagnose.local.least_squares import Block, Estimate, fit
from lockstep.diagnose.local.samples import unit_of_array
from lockstep.records.trace import Trace
from lockstep.tensor_file import arrays_below

__all__ = ["clip_scale", "norm_of", "norm_of_gradient"]

MOST = 2000  # elements of a tensor


def clip_scale(trace: Trace, update: int) -> Estimate | None:
    """The factor from the gradients to what was recorded as given to the optimizer; None where it
    is not the same in all tensors, or was not recorded.
    """
    gradients = arrays_below(trace.arrays, f"detail/{update}/gradients/")
    clipped = arrays_below(trace.arrays, f"detail/{update}/clip/")
    blocks = []
    for name, given in clipped.items():
        gradient = gradients.get(name)
        if gradient is None or gradient.shape != given.shape or given.dtype.kind != "f":
            return None
        stride = max(given.size // MOST, 1)
        target = given.reshape(-1)[::stride].astype(np.float64)
        column = gradient.reshape(-1)[::stride].astype(np.float64)
        unit = unit_of_array(trace, f"clip/{name}", given)
        bound = 4 * unit * np.abs(target) + 4 * float(np.finfo(given.dtype).tiny)
        blocks.append(Block(column[:, None], np.zeros((len(column), 0)), target, bound))
    if not blocks:
        return None
    with np.errstate(all="ignore"):
        scale = fit(blocks)
    return scale.shared[0] if scale.holds else None


def norm_of_gradient(trace: Trace, update: int) -> float | None:
    """The 2-norm over all gradients; None where they were not recorded."""
    gradients = arrays_below(trace.arrays, f"detail/{update}/gradients/")
    return norm_of(gradients) if gradients else None


def norm_of(arrays: Mapping[str, np.ndarray]) -> float:
    """The 2-norm over all arrays together."""
    squares = [float(np.square(array, dtype=np.float64).sum()) for array in arrays.values()]
    return float(np.sqrt(sum(squares)))
