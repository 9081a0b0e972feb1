"""The layers of the models in PyTorch, in the ways in which people write them."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["BatchNorm", "Linear", "gelu_of", "norm_of"]

Tensor = torch.Tensor


def wide(loop: Loop, x: Tensor) -> Tensor:
    """x as a written formula computes: in float32 at least, but for "coarse"."""
    if loop.layers == "coarse" or x.dtype == torch.float64:
        return x
    return x.float()


class LayerNorm(nn.Module):
    """A LayerNorm over the last axis, as it is written by hand."""

    def __init__(self, width: int, loop: Loop) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.loop = loop

    def forward(self, x: Tensor) -> Tensor:
        y = wide(self.loop, x)
        twist = self.loop.twist
        centred = y if twist == "not-centred" else y - y.mean(-1, keepdim=True)
        mean_square = centred.pow(2).mean(-1, keepdim=True)
        if twist == "eps-beside-root":
            scaled = centred / (torch.sqrt(mean_square) + self.loop.eps)
        else:
            scaled = centred / torch.sqrt(mean_square + self.loop.eps)
        return (scaled * self.weight + self.bias).to(x.dtype)


class BatchNorm(nn.Module):
    """A BatchNorm of images, as it is written by hand."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, loop: Loop) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))
        self.loop = loop

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Each channel normalised by its batch, which moves the running statistics."""
        y = wide(self.loop, x_BCHW)
        n = y.numel() / y.shape[1]
        mean_C = y.mean((0, 2, 3))
        centred = y - mean_C[:, None, None]
        var_C = centred.pow(2).mean((0, 2, 3))
        with torch.no_grad():
            self.running_mean.lerp_(mean_C.detach(), 0.1)
            self.running_var.lerp_(var_C.detach() * (n / (n - 1)), 0.1)
        scaled = centred * torch.rsqrt(var_C + self.loop.eps)[:, None, None]
        shifted = scaled * self.weight[:, None, None] + self.bias[:, None, None]
        return shifted.to(x_BCHW.dtype)


class Gelu(nn.Module):
    """A GELU of the kind that the loop names, as it is written by hand."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, x: Tensor) -> Tensor:
        y = wide(self.loop, x)
        if self.loop.gelu == "tanh":
            inner = math.sqrt(2 / math.pi) * (y + 0.044715 * y.pow(3))
            return (0.5 * y * (1 + torch.tanh(inner))).to(x.dtype)
        return (y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))).to(x.dtype)


class Linear(nn.Linear):
    """A linear layer, which may be written as x W' + b, and whose bias may be left out."""

    def __init__(self, inputs: int, outputs: int, loop: Loop, name: str) -> None:
        super().__init__(inputs, outputs)
        self.loop = loop
        self.is_without_bias = loop.without_bias == name
        self.twist = loop.twist if name == "linear2" else ""

    def forward(self, x: Tensor) -> Tensor:
        """The product with the weight, and the bias."""
        if self.twist == "kernel-transposed":
            return F.linear(x, self.weight.t(), self.bias)
        if self.twist == "product-doubled":
            return F.linear(2 * x, self.weight, self.bias)
        if self.twist == "product-in-bfloat16":
            left, right = (one.to(torch.bfloat16).to(one) for one in (x, self.weight))
            return F.linear(left, right, self.bias)
        if self.is_without_bias:
            return F.linear(x, self.weight)
        if self.loop.layers == "library":
            return F.linear(x, self.weight, self.bias)
        return x @ self.weight.t() + self.bias


def norm_of(width: int, loop: Loop) -> nn.Module:
    """A norm of the last axis, of the kind that the loop names."""
    return nn.LayerNorm(width, eps=loop.eps) if loop.layers == "library" else LayerNorm(width, loop)


def gelu_of(loop: Loop) -> nn.Module | Callable[[Tensor], Tensor]:
    """A module, or, where activations are functions, a function that no hook hears."""
    if loop.layers != "library":
        return Gelu(loop)
    approximate = "tanh" if loop.gelu == "tanh" else "none"
    if loop.activation == "module":
        return nn.GELU(approximate=approximate)
    return lambda x: F.gelu(x, approximate=approximate)
