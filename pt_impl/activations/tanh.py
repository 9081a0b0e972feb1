"""Tanh."""

import torch

__all__ = ["activate"]


def activate(z: torch.Tensor) -> torch.Tensor:
    """tanh(z), any shape."""
    return torch.tanh(z)
