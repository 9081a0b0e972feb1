"""Normalisation between a hidden linear layer and its activation."""

import torch
from torch import Tensor as Array
from torch import nn

from lockstep.recipe import Model

__all__ = ["BatchNorm", "make_norm"]


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d`, which is unbiased, with the running variance biased or unbiased."""

    def __init__(self, units: int, model: Model, dtype: torch.dtype) -> None:
        super().__init__(
            units,
            eps=model.norm_eps,
            momentum=model.norm_momentum,
            affine=True,
            track_running_stats=True,
            dtype=dtype,
        )
        self.norm_momentum = model.norm_momentum
        self.norm_variance = model.norm_variance

    def forward(self, z_BH: Array) -> Array:
        """Rows (B, H) normalised by their own statistics in training, else by the running ones."""
        before_H = self.running_var
        if not self.training or self.norm_variance == "unbiased" or before_H is None:
            return super().forward(z_BH)
        before_H = before_H.clone()
        normalised_BH = super().forward(z_BH)
        variance_H = z_BH.detach().var(dim=0, correction=0)
        self.running_var = (1 - self.norm_momentum) * before_H + self.norm_momentum * variance_H
        return normalised_BH


def make_norm(model: Model, units: int, dtype: torch.dtype) -> nn.Module:
    """The model's normalisation of (B, units)."""
    if model.norm == "batch":
        return BatchNorm(units, model, dtype)
    return nn.LayerNorm(units, eps=model.norm_eps, elementwise_affine=True, bias=True, dtype=dtype)
