"""LeakyReLU(0.01)."""

import torch
from torch.nn import functional

__all__ = ["activate"]


def activate(z: torch.Tensor) -> torch.Tensor:
    """z above 0, and 0.01 z below, any shape."""
    return functional.leaky_relu(z, negative_slope=0.01)
