"""Mean cross entropy over the rows that count."""

import torch
from torch.nn import functional

__all__ = ["cross_entropy", "right_answers"]


def cross_entropy(logits_BK: torch.Tensor, y_B: torch.Tensor, count: int) -> torch.Tensor:
    """Mean over the first `count` rows of -log softmax(logits)[y]; the rows after them are padding."""
    return functional.cross_entropy(logits_BK[:count], y_B[:count], reduction="mean", label_smoothing=0.0)


def right_answers(logits_BK: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """How many rows have their largest logit at the right class."""
    return (logits_BK.argmax(dim=-1) == y_B).sum()
