"""The cross entropy of K classes."""

import torch
from torch.nn import functional

from lockstep.data_prep import IGNORED
from lockstep.recipe import CrossEntropy

__all__ = ["mean_loss"]


def mean_loss(loss: CrossEntropy, outputs_BK: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """Mean over the rows that count; classes (B,) are int64."""
    return functional.cross_entropy(
        outputs_BK,
        y_B,
        weight=outputs_BK.new_tensor(loss.class_weights) if loss.class_weights else None,
        ignore_index=IGNORED,
        reduction="mean",
        label_smoothing=loss.label_smoothing,
    )
