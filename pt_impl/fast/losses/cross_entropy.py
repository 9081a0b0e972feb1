"""The cross entropy of K classes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.data_prep import IGNORED
from lockstep.recipe import CrossEntropy
from pt_impl.fast.losses.parts import Targets

__all__ = ["mean_losses", "slope", "targets"]

Tensor = torch.Tensor


def targets(
    loss: CrossEntropy, outputs: int, y_TB: NDArray[Any], weight_TB: NDArray[np.float64]
) -> Targets:
    """Scale and shift of the slope, and the divisors of the mean."""
    counts_TB = weight_TB * (y_TB != IGNORED)
    weight_K = np.asarray(loss.class_weights or (1.0,) * outputs)
    counts_T1B = counts_TB[..., None, :]
    weight_K1 = weight_K[:, None]
    label_TKB = (y_TB[..., None, :] == np.arange(outputs)[:, None]) * counts_T1B
    spread = loss.label_smoothing / outputs
    target_TKB = ((1 - loss.label_smoothing) * label_TKB + spread * counts_T1B) * weight_K1
    return target_TKB.sum(axis=-2), -target_TKB, (label_TKB * weight_K1).sum(axis=(-2, -1))


def slope(loss: CrossEntropy, outputs_KB: Tensor, batch: Any, scratch: Tensor, out: Tensor) -> None:
    """softmax(outputs) scale + shift."""
    torch.softmax(outputs_KB, -2, out=scratch)
    torch.addcmul(batch.shift_KB, scratch, batch.scale_1B, out=out)


def mean_losses(loss: CrossEntropy, outputs_TKB: Tensor, batch: Any, together: slice) -> Tensor:
    """The losses (T,) of consecutive batches."""
    # a slope's shift is minus the target: the sum is the mean cross entropy
    shift_TKB = batch.all_shift_TKB[together]
    loss_TKB = torch.log_softmax(outputs_TKB, -2).mul_(shift_TKB)
    # a class of target 0 counts nothing, even if its logit is -inf, as in PyTorch's own
    loss_T = loss_TKB.masked_fill_(shift_TKB == 0, 0.0).sum(dim=(-2, -1))
    if batch.all_empty_T is None:
        return loss_T
    return loss_T.masked_fill_(batch.all_empty_T[together], torch.nan)
