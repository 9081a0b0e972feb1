"""A convolutional net that pools, enlarges and resizes, in PyTorch, as people write one.

Its code asks for the loop's `twist` where one is planted.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["Upsampler"]

Tensor = torch.Tensor


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int, loop: Loop) -> None:
        mode: Any = "circular" if loop.twist == "padding-mode" else "zeros"
        super().__init__(inputs, outputs, 3, stride=2, padding=1, padding_mode=mode)
        self.twist = loop.twist

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.twist == "kernel-flipped":
            flipped = self.weight.flip(2, 3)
            return F.conv2d(x_BCHW, flipped, self.bias, stride=2, padding=1)
        if self.twist == "padded-at-the-end":
            return F.conv2d(F.pad(x_BCHW, (0, 1, 0, 1)), self.weight, self.bias, stride=2)
        if self.twist == "dilated":
            return F.conv2d(x_BCHW, self.weight, self.bias, stride=2, padding=2, dilation=2)
        if self.twist == "stride-1":
            return F.conv2d(x_BCHW, self.weight, self.bias, padding=1)[..., :4, :4]
        return super().forward(x_BCHW)


class BatchNorm(nn.BatchNorm2d):
    """A BatchNorm that may be written otherwise."""

    def __init__(self, width: int, loop: Loop) -> None:
        super().__init__(width, eps=loop.eps)
        self.twist = loop.twist

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.twist == "norm-evaluation":
            return F.batch_norm(x_BCHW, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        if self.twist == "norm-affine":
            return F.batch_norm(x_BCHW, mean, var, None, None, True, 0.1, self.eps)
        if self.twist in ("norm-variance", "norm-by-example"):
            axes = (0, 2, 3) if self.twist == "norm-variance" else (2, 3)
            centre = x_BCHW.mean(axes, keepdim=True)
            spread = x_BCHW.var(axes, keepdim=True, correction=self.twist == "norm-variance")
            y = (x_BCHW - centre) / torch.sqrt(spread + self.eps)
            return y * self.weight[:, None, None] + self.bias[:, None, None]
        return super().forward(x_BCHW)


def _pool(twist: str) -> nn.Module:
    if twist == "pool-maximum":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=twist != "pool-counts-inside")


class Transposed(nn.ConvTranspose2d):
    """A transposed convolution of stride 2."""

    def __init__(self, width: int, loop: Loop) -> None:
        super().__init__(width, width, 3, stride=2, padding=1, output_padding=1)
        self.twist = loop.twist

    def forward(self, x_BCHW: Tensor, output_size: Any = None) -> Tensor:
        if self.twist == "up-flipped":
            flipped = self.weight.flip(2, 3)
            return F.conv_transpose2d(
                x_BCHW, flipped, self.bias, stride=2, padding=1, output_padding=1
            )
        if self.twist == "crop":
            whole = F.conv_transpose2d(x_BCHW, self.weight, self.bias, stride=2)
            return whole[..., :8, :8]
        return super().forward(x_BCHW)


def _resize(twist: str) -> nn.Module:
    if twist == "resize-nearest":
        return nn.Upsample((6, 6), mode="nearest")
    return nn.Upsample((6, 6), mode="bilinear", align_corners=twist == "resize-corners")


class Upsampler(nn.Module):
    """Images (B, C, 8, 8) to logits (B, K)."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        self.conv = Convolution(sizes.row[0], sizes.width, loop)
        self.norm1 = BatchNorm(sizes.width, loop)
        self.relu1 = nn.LeakyReLU(0.1) if loop.twist == "relu-leaks" else nn.ReLU()
        self.pool = _pool(loop.twist)
        self.up = Transposed(sizes.width, loop)
        self.resize = _resize(loop.twist)
        self.norm2 = nn.GroupNorm(1 if loop.twist == "one-group" else 2, sizes.width, eps=loop.eps)
        self.relu2 = nn.ReLU()
        self.head = nn.Linear(36 * sizes.width, sizes.classes)
        self.twist = loop.twist

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The logits of every image."""
        x_BCHW = self.pool(self.relu1(self.norm1(self.conv(x_BCHW))))
        x_BCHW = self.relu2(self.norm2(self.resize(self.up(x_BCHW))))
        if self.twist == "flatten-order":
            x_BCHW = x_BCHW.permute(0, 2, 3, 1)
        logits_BK: Tensor = self.head(x_BCHW.flatten(1))
        return logits_BK
