"""Huber's loss."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lockstep.recipe import Huber
from pt_impl.fast.losses.parts import Targets, error, mean_of_rows, number_targets

__all__ = ["mean_losses", "slope", "targets"]

Tensor = torch.Tensor


def targets(
    loss: Huber, outputs: int, y_TB: NDArray[Any], weight_TB: NDArray[np.float64]
) -> Targets:
    """Scale and shift of the slope, and the divisors of the mean."""
    return number_targets(outputs, weight_TB, 1.0)


def slope(loss: Huber, outputs_KB: Tensor, batch: Any, scratch: Tensor, out: Tensor) -> None:
    """The error, clipped, times scale."""
    error(outputs_KB, batch, out).clamp_(-loss.delta, loss.delta).mul_(batch.scale_1B)


def mean_losses(loss: Huber, outputs_TKB: Tensor, batch: Any, together: slice) -> Tensor:
    """The losses (T,) of consecutive batches."""
    output_TB, y_TB = outputs_TKB.squeeze(-2), batch.all_y_TB[together]
    loss_TB = functional.huber_loss(output_TB, y_TB, reduction="none", delta=loss.delta)
    return mean_of_rows(loss_TB, batch, together)
