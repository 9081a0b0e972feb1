"""What happens to the gradients between the loss and the optimizer."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor as Array
from torch.nn import utils

from lockstep.recipe import Gradient

__all__ = ["clip", "norm"]

TORCH_EPS = 1e-6
"""What `clip_grad_norm_` adds to the norm (torch 2.13, `torch/nn/utils/clip_grad.py`)."""


def clip(gradient: Gradient, parameters: Sequence[Any]) -> None:
    """Clip the parameters' gradients in place: all together by their norm, or each element."""
    if gradient.clip == "norm" and gradient.clip_eps == TORCH_EPS:
        utils.clip_grad_norm_(
            parameters, gradient.clip_at, norm_type=2.0, error_if_nonfinite=False, foreach=False
        )
    elif gradient.clip == "norm":
        # the same by hand with another eps
        tensors = [parameter.grad for parameter in parameters]
        factor = (gradient.clip_at / (norm(tensors) + gradient.clip_eps)).clamp(max=1.0)
        for tensor in tensors:
            tensor.mul_(factor)
    elif gradient.clip == "value":
        utils.clip_grad_value_(parameters, gradient.clip_at, foreach=False)


def norm(tensors: Iterable[Any]) -> Array:
    """2-norm over all tensors."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()
