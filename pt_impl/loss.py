"""Mean cross entropy over the rows that count."""

import torch
from torch.nn import functional

__all__ = ["accuracy", "cross_entropy"]


def cross_entropy(logits_BK: torch.Tensor, y_B: torch.Tensor, count: int) -> torch.Tensor:
    """Mean over the first `count` rows of -log softmax(logits)[y]; the rows after them are padding."""
    return functional.cross_entropy(logits_BK[:count], y_B[:count], reduction="mean", label_smoothing=0.0)


def accuracy(logits_BK: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """Share of rows whose largest logit is that of the right class."""
    return (logits_BK.argmax(dim=-1) == y_B).double().mean()
