"""What happens to a gradient between the loss and the optimizer: accumulation over batches, then
clipping.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe import Gradient

__all__ = ["accumulate", "clip", "norm"]

Parameters = dict[str, Array]


def accumulate(
    accumulated: Parameters, gradients: Parameters, share: float, arithmetic: Exact
) -> Parameters:
    """The sum so far plus the batch's share of the mean gradient. The sum is empty before the first
    batch of an update.
    """
    if share == 1:
        return gradients
    terms = {name: arithmetic.round(share * gradient) for name, gradient in gradients.items()}
    if not accumulated:
        return terms
    return {name: arithmetic.round(accumulated[name] + term) for name, term in terms.items()}


def clip(gradient: Gradient, gradients: Parameters, arithmetic: Exact) -> Parameters:
    """The gradients clipped: all scaled together by min(1, clip_at / (norm + clip_eps)), or each
    element to +-clip_at.

    Pascanu, Mikolov & Bengio, arXiv:1211.5063, algorithm 1. With an eps it is
    `torch.nn.utils.clip_grad_norm_` (torch 2.13), without one `optax.clip_by_global_norm` (optax
    0.2.8).
    """
    if gradient.clip == "none":
        return gradients
    if gradient.clip == "value":
        at = arithmetic.constant("clip_at", gradient.clip_at)
        return {name: np.clip(array, -at, at) for name, array in gradients.items()}
    size = arithmetic.round((norm(gradients, arithmetic) + gradient.clip_eps)[..., None, None])
    at = arithmetic.constant("clip_at", gradient.clip_at)
    factor = np.minimum(arithmetic.round(at / size), 1.0)
    return {name: arithmetic.round(array * factor) for name, array in gradients.items()}


def norm(tensors: Parameters, arithmetic: Exact) -> Array:
    """2-norm over all tensors (...)."""
    squares = np.stack([np.square(tensor).sum(axis=(-2, -1)) for tensor in tensors.values()])
    terms = sum(tensor.shape[-2] * tensor.shape[-1] for tensor in tensors.values())
    total = arithmetic.squares(squares.sum(axis=0), terms)
    return arithmetic.round(np.sqrt(total)[..., None, None])[..., 0, 0]
