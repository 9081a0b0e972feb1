"""The cross entropy of 2 classes by one logit."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lockstep.recipe import BinaryCrossEntropy
from pt_impl.fast.losses.parts import Targets, mean_of_rows

__all__ = ["mean_losses", "slope", "targets"]

Tensor = torch.Tensor


def targets(
    loss: BinaryCrossEntropy, outputs: int, y_TB: NDArray[Any], weight_TB: NDArray[np.float64]
) -> Targets:
    """Scale and shift of the slope, and the divisors of the mean."""
    factor_TB = weight_TB * np.where(y_TB == 1, loss.positive_weight, 1.0)
    return factor_TB, -(factor_TB * y_TB)[..., None, :], weight_TB.sum(axis=-1)


def slope(
    loss: BinaryCrossEntropy, outputs_KB: Tensor, batch: Any, scratch: Tensor, out: Tensor
) -> None:
    """sigmoid(outputs) scale + shift."""
    torch.sigmoid(outputs_KB, out=scratch)
    torch.addcmul(batch.shift_KB, scratch, batch.scale_1B, out=out)


def mean_losses(
    loss: BinaryCrossEntropy, outputs_TKB: Tensor, batch: Any, together: slice
) -> Tensor:
    """The losses (T,) of consecutive batches."""
    output_TB, y_TB = outputs_TKB.squeeze(-2), batch.all_y_TB[together]
    positive = output_TB.new_tensor(loss.positive_weight)
    loss_TB = functional.binary_cross_entropy_with_logits(
        output_TB, y_TB.to(output_TB.dtype), weight=None, reduction="none", pos_weight=positive
    )
    return mean_of_rows(loss_TB, batch, together)
