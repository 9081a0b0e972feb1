"""Softsign."""

import torch
from torch.nn import functional

__all__ = ["activate"]


def activate(z: torch.Tensor) -> torch.Tensor:
    """z / (1 + |z|), any shape."""
    return functional.softsign(z)
