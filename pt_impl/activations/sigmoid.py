"""Sigmoid."""

import torch

__all__ = ["activate"]


def activate(z: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-z)), any shape."""
    return torch.sigmoid(z)
