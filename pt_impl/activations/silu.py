"""SiLU."""

import torch
from torch.nn import functional

__all__ = ["activate"]


def activate(z: torch.Tensor) -> torch.Tensor:
    """z sigmoid(z), any shape."""
    return functional.silu(z)
