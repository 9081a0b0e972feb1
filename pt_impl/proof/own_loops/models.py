"""The models in PyTorch, in the ways in which people write them."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["build"]

Tensor = torch.Tensor


def build(loop: Loop) -> nn.Module:
    """The model, in its dtype, with whatever numbers PyTorch draws."""
    model: Any = MODELS[loop.model](loop).to(getattr(torch, loop.dtype))
    if loop.memory == "nhwc":
        model = model.to(memory_format=torch.channels_last)
    built: nn.Module = model
    return built


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
        centred = y - y.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + self.loop.eps)
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

    def forward(self, x: Tensor) -> Tensor:
        if self.is_without_bias:
            return F.linear(x, self.weight)
        if self.loop.layers == "library":
            return F.linear(x, self.weight, self.bias)
        return x @ self.weight.t() + self.bias


def norm_of(width: int, loop: Loop) -> nn.Module:
    return nn.LayerNorm(width, eps=loop.eps) if loop.layers == "library" else LayerNorm(width, loop)


def gelu_of(loop: Loop) -> nn.Module | Callable[[Tensor], Tensor]:
    """A module, or, where activations are functions, a function that no hook hears."""
    if loop.layers != "library":
        return Gelu(loop)
    approximate = "tanh" if loop.gelu == "tanh" else "none"
    if loop.activation == "module":
        return nn.GELU(approximate=approximate)
    return lambda x: F.gelu(x, approximate=approximate)


class Attention(nn.Module):
    """Causal attention of two heads."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        width = loop.sizes.width
        self.loop = loop
        if loop.is_packed:
            self.qkv = Linear(width, 3 * width, loop, "qkv")
        else:
            self.query = Linear(width, width, loop, "query")
            self.key = Linear(width, width, loop, "key")
            self.value = Linear(width, width, loop, "value")
        self.out = Linear(width, width, loop, "out")

    def forward(self, x_BTW: Tensor) -> Tensor:
        B, T, W = x_BTW.shape
        heads = self.loop.sizes.heads
        if self.loop.is_packed:
            parts = self.qkv(x_BTW).chunk(3, dim=-1)
        else:
            parts = [self.query(x_BTW), self.key(x_BTW), self.value(x_BTW)]
        q, k, v = (part.view(B, T, heads, W // heads).transpose(1, 2) for part in parts)
        scale = self.loop.attention_scale / math.sqrt(W // heads)
        if self.loop.attention == "library":
            mixed = F.scaled_dot_product_attention(
                q, k, v, is_causal=self.loop.is_causal, scale=scale
            )
        else:
            scores = q @ k.transpose(-2, -1) * scale
            if self.loop.is_causal:
                later = torch.ones(T, T, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, float("-inf"))
            mixed = torch.softmax(scores, dim=-1) @ v
        joined_BTW: Tensor = self.out(mixed.transpose(1, 2).reshape(B, T, W))
        return joined_BTW


class Block(nn.Module):
    """A block with its norms first."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        width = loop.sizes.width
        self.norm1 = norm_of(width, loop)
        self.attention = Attention(loop)
        self.norm2 = norm_of(width, loop)
        self.up = Linear(width, 4 * width, loop, "up")
        self.gelu = gelu_of(loop)
        self.down = Linear(4 * width, width, loop, "down")
        self.drop = nn.Dropout(loop.dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        x_BTW = x_BTW + self.attention(self.norm1(x_BTW))
        changed_BTW: Tensor = self.drop(self.down(self.gelu(self.up(self.norm2(x_BTW)))))
        return x_BTW + changed_BTW


class Gpt(nn.Module):
    """Tokens (B, T) to logits (B, T, K), as GPT-2 does."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        self.token = nn.Embedding(sizes.classes, sizes.width)
        self.position = nn.Embedding(sizes.row[0], sizes.width)
        self.blocks = nn.ModuleList([Block(loop) for _ in range(sizes.blocks)])
        self.norm = norm_of(sizes.width, loop)
        self.head = nn.Linear(sizes.width, sizes.classes, bias=False)
        if loop.is_tied:
            self.head.weight = self.token.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTW = self.token(tokens_BT) + self.position(torch.arange(tokens_BT.shape[1]))
        for block in self.blocks:
            x_BTW = block(x_BTW)
        logits_BTK: Tensor = self.head(self.norm(x_BTW))
        return logits_BTK


class Mlp(nn.Module):
    """Two hidden layers, each with a LayerNorm and a GELU."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        self.linear1 = Linear(sizes.row[0], sizes.width, loop, "linear1")
        self.norm1 = norm_of(sizes.width, loop)
        self.gelu1 = gelu_of(loop)
        self.drop1 = nn.Dropout(loop.dropout)
        self.linear2 = Linear(sizes.width, sizes.width, loop, "linear2")
        self.norm2 = norm_of(sizes.width, loop)
        self.gelu2 = gelu_of(loop)
        self.head = Linear(sizes.width, sizes.classes, loop, "head")

    def forward(self, x_BD: Tensor) -> Tensor:
        x_BW = self.drop1(self.gelu1(self.norm1(self.linear1(x_BD))))
        x_BW = self.gelu2(self.norm2(self.linear2(x_BW)))
        logits_BK: Tensor = self.head(x_BW)
        return logits_BK


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution that may be written as a product of patches."""

    def __init__(self, inputs: int, outputs: int, loop: Loop) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.loop = loop

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.loop.layers == "library":
            return super().forward(x_BCHW)
        B, _, H, W = x_BCHW.shape
        patches_BPL = F.unfold(x_BCHW, 3, padding=1)
        y_BOL = self.weight.flatten(1) @ patches_BPL + self.bias[:, None]  # type: ignore[index]
        return y_BOL.view(B, -1, H, W)


class Convnet(nn.Module):
    """Two convolutions with norms, pooled."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        self.conv1 = Convolution(sizes.row[0], sizes.width, loop)
        self.norm1 = self._norm(sizes.width, loop)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = Convolution(sizes.width, 2 * sizes.width, loop)
        self.norm2 = self._norm(2 * sizes.width, loop)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AdaptiveAvgPool2d(1)
        self.head = Linear(2 * sizes.width, sizes.classes, loop, "head")
        self.loop = loop

    @staticmethod
    def _norm(width: int, loop: Loop) -> nn.Module:
        if loop.norm == "group":
            return nn.GroupNorm(2, width, eps=loop.eps)
        if loop.layers == "library":
            return nn.BatchNorm2d(width, eps=loop.eps)
        return BatchNorm(width, loop)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.loop.memory == "nhwc":
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        x_BCHW = self.pool1(self.relu1(self.norm1(self.conv1(x_BCHW))))
        x_BCHW = self.relu2(self.norm2(self.conv2(x_BCHW)))
        is_library = self.loop.layers == "library"
        x_BC = self.pool2(x_BCHW).flatten(1) if is_library else x_BCHW.mean((2, 3))
        logits_BK: Tensor = self.head(x_BC)
        return logits_BK


class Cells(nn.Module):
    """An LSTM or a GRU of one layer as a loop over time, with the parameters of PyTorch's own."""

    def __init__(self, inputs: int, width: int, gates: int) -> None:
        super().__init__()
        self.weight_ih_l0 = nn.Parameter(torch.zeros(gates * width, inputs))
        self.weight_hh_l0 = nn.Parameter(torch.zeros(gates * width, width))
        self.bias_ih_l0 = nn.Parameter(torch.zeros(gates * width))
        self.bias_hh_l0 = nn.Parameter(torch.zeros(gates * width))
        self.gates, self.width = gates, width

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        h_BW = x_BTD.new_zeros(len(x_BTD), self.width)
        c_BW = h_BW
        states = []
        for x_BD in x_BTD.unbind(1):
            given = F.linear(x_BD, self.weight_ih_l0, self.bias_ih_l0).chunk(self.gates, -1)
            known = F.linear(h_BW, self.weight_hh_l0, self.bias_hh_l0).chunk(self.gates, -1)
            if self.gates == 4:
                i, f, g, o = (left + right for left, right in zip(given, known))
                c_BW = torch.sigmoid(f) * c_BW + torch.sigmoid(i) * torch.tanh(g)
                h_BW = torch.sigmoid(o) * torch.tanh(c_BW)
            else:
                r = torch.sigmoid(given[0] + known[0])
                z = torch.sigmoid(given[1] + known[1])
                h_BW = (1 - z) * torch.tanh(given[2] + r * known[2]) + z * h_BW
            states.append(h_BW)
        return torch.stack(states, 1), h_BW


class Recurrent(nn.Module):
    """A recurrent layer and a linear one of its last state."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        if loop.layers == "library":
            kind: Any = nn.LSTM if loop.model == "lstm" else nn.GRU
            self.rnn: nn.Module = kind(sizes.row[1], sizes.width, batch_first=True)
        else:
            self.rnn = Cells(sizes.row[1], sizes.width, 4 if loop.model == "lstm" else 3)
        self.head = Linear(sizes.width, sizes.classes, loop, "head")

    def forward(self, x_BTD: Tensor) -> Tensor:
        states_BTW, _ = self.rnn(x_BTD)
        logits_BK: Tensor = self.head(states_BTW[:, -1])
        return logits_BK


MODELS: dict[str, Callable[[Loop], nn.Module]] = {
    "gpt": Gpt,
    "mlp": Mlp,
    "convnet": Convnet,
    "lstm": Recurrent,
    "gru": Recurrent,
}
