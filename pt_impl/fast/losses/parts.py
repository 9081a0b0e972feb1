"""What several losses share."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Targets", "error", "mean_of_rows", "number_targets"]

Tensor = torch.Tensor
Targets = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Scale (T, B) and shift (T, K, B) of the slope before it is divided, and the divisors (T,) of the
mean.
"""


def number_targets(outputs: int, weight_TB: NDArray[np.float64], factor: float) -> Targets:
    """Of a loss of numbers whose slope is `factor` times the error."""
    nothing_TKB = np.zeros((*weight_TB.shape[:-1], outputs, weight_TB.shape[-1]))
    return factor * weight_TB, nothing_TKB, weight_TB.sum(axis=-1)


def error(outputs_1B: Tensor, batch: Any, out: Tensor) -> Tensor:
    """The outputs less the targets."""
    return torch.sub(outputs_1B, batch.y_B.unsqueeze(-2), out=out)


def mean_of_rows(loss_TB: Tensor, batch: Any, together: slice) -> Tensor:
    """The losses (T,) of consecutive batches from those of their rows."""
    if batch.all_used_TB is not None:
        loss_TB = torch.where(batch.all_used_TB[together], loss_TB, 0.0)
    loss_T: Tensor = loss_TB.sum(dim=-1) * batch.all_share_T[together]
    return loss_T
