"""Huber's loss."""

import torch
from torch.nn import functional

from lockstep.recipe import Huber

__all__ = ["mean_loss"]


def mean_loss(loss: Huber, outputs_BK: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """Mean over the rows; numbers (B,) are floats."""
    return functional.huber_loss(outputs_BK[:, 0], y_B, reduction="mean", delta=loss.delta)
