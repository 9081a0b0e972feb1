"""The models in PyTorch, in the ways in which people write them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop
from pt_impl.proof.own_loops.layers import BatchNorm, Linear, gelu_of, norm_of
from pt_impl.proof.own_loops.llama import Llama
from pt_impl.proof.own_loops.transformer import Gpt
from pt_impl.proof.own_loops.upsampler import Upsampler

__all__ = ["build"]

Tensor = torch.Tensor


def build(loop: Loop) -> nn.Module:
    """The model, in its dtype, with whatever numbers PyTorch draws."""
    model: Any = MODELS[loop.model](loop).to(getattr(torch, loop.dtype))
    if loop.memory == "nhwc":
        model = model.to(memory_format=torch.channels_last)
    built: nn.Module = model
    return built


class Mlp(nn.Module):
    """Two hidden layers, each with a LayerNorm and a GELU."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        self.twist = loop.twist
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
        if self.twist == "linear2-of-norm1":
            x_BW = self.norm1(self.linear1(x_BD))
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
        if is_library:
            x_BC = self.pool2(x_BCHW).flatten(1)
        elif self.loop.twist == "maximum-for-mean":
            x_BC = x_BCHW.amax((2, 3))
        else:
            x_BC = x_BCHW.mean((2, 3))
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


class OtherCells(Cells):
    """Cells that compute something else than PyTorch's with the same parameters."""

    def __init__(self, inputs: int, width: int, loop: Loop) -> None:
        super().__init__(inputs, width, 4 if loop.model == "lstm" else 3)
        self.twist = loop.twist

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        h_BW = x_BTD.new_zeros(len(x_BTD), self.width)
        c_BW = h_BW
        states = []
        bias = None if self.twist == "hidden-bias" else self.bias_hh_l0
        for x_BD in x_BTD.unbind(1):
            given = F.linear(x_BD, self.weight_ih_l0, self.bias_ih_l0).chunk(self.gates, -1)
            if self.gates == 4:
                known = F.linear(h_BW, self.weight_hh_l0, bias).chunk(4, -1)
                i, f, g, o = (left + right for left, right in zip(given, known))
                if self.twist == "gate-order":
                    g, o = o, g
                c_BW = torch.sigmoid(f) * c_BW + torch.sigmoid(i) * torch.tanh(g)
                h_BW = torch.sigmoid(o) * torch.tanh(c_BW)
            else:
                h_BW = self._gru(given, h_BW, bias)
            states.append(h_BW)
        return torch.stack(states, 1), h_BW

    def _gru(self, given: Any, h_BW: Tensor, bias: Tensor | None) -> Tensor:
        known = F.linear(h_BW, self.weight_hh_l0, bias).chunk(3, -1)
        r = torch.sigmoid(given[0] + known[0])
        z = torch.sigmoid(given[1] + known[1])
        if self.twist == "gate-order":
            r, z = z, r
        n = torch.tanh(given[2] + r * known[2])
        if self.twist == "reset-before":
            kernel = self.weight_hh_l0.chunk(3)[2]
            inner = F.linear(r * h_BW, kernel, None if bias is None else bias.chunk(3)[2])
            n = torch.tanh(given[2] + inner)
        if self.twist == "mixes-the-other-way":
            return (1 - z) * h_BW + z * n
        return (1 - z) * n + z * h_BW


class Recurrent(nn.Module):
    """A recurrent layer and a linear one of its last state."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        if loop.twist:
            self.rnn: nn.Module = OtherCells(sizes.row[1], sizes.width, loop)
        elif loop.layers == "library":
            kind: Any = nn.LSTM if loop.model == "lstm" else nn.GRU
            self.rnn = kind(sizes.row[1], sizes.width, batch_first=True)
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
    "llama": Llama,
    "upsampler": Upsampler,
    "lstm": Recurrent,
    "gru": Recurrent,
}
