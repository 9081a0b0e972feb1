"""GELU(tanh)."""

import torch
from torch.nn import functional

__all__ = ["activate"]


def activate(z: torch.Tensor) -> torch.Tensor:
    """z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2, the approximation of gelu, any shape."""
    return functional.gelu(z, approximate="tanh")
