"""Mish."""

import torch
from torch.nn import functional

__all__ = ["activate"]


def activate(z: torch.Tensor) -> torch.Tensor:
    """z tanh(softplus(z)), any shape."""
    return functional.mish(z)
