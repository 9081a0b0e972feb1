"""ReLU."""

import torch

__all__ = ["activate"]


def activate(z: torch.Tensor) -> torch.Tensor:
    """max(z, 0), any shape."""
    return torch.relu(z)
