"""The cross entropy of 2 classes by one logit."""

import torch
from torch.nn import functional

from lockstep.recipe import BinaryCrossEntropy

__all__ = ["mean_loss"]


def mean_loss(
    loss: BinaryCrossEntropy, outputs_BK: torch.Tensor, y_B: torch.Tensor
) -> torch.Tensor:
    """Mean over the rows; classes (B,) are int64."""
    output_B = outputs_BK[:, 0]
    positive = output_B.new_tensor(loss.positive_weight)
    return functional.binary_cross_entropy_with_logits(
        output_B, y_B.to(output_B.dtype), weight=None, reduction="mean", pos_weight=positive
    )
