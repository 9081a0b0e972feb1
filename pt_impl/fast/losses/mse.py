"""The squared error."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lockstep.recipe import SquaredError
from pt_impl.fast.losses.parts import Targets, error, mean_of_rows, number_targets

__all__ = ["mean_losses", "slope", "targets"]

Tensor = torch.Tensor


def targets(
    loss: SquaredError, outputs: int, y_TB: NDArray[Any], weight_TB: NDArray[np.float64]
) -> Targets:
    """Scale and shift of the slope, and the divisors of the mean."""
    return number_targets(outputs, weight_TB, 2.0)


def slope(loss: SquaredError, outputs_KB: Tensor, batch: Any, scratch: Tensor, out: Tensor) -> None:
    """error scale."""
    error(outputs_KB, batch, out).mul_(batch.scale_1B)


def mean_losses(loss: SquaredError, outputs_TKB: Tensor, batch: Any, together: slice) -> Tensor:
    """The losses (T,) of consecutive batches."""
    loss_TB = functional.mse_loss(
        outputs_TKB.squeeze(-2), batch.all_y_TB[together], reduction="none"
    )
    return mean_of_rows(loss_TB, batch, together)
