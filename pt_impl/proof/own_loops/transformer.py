"""A transformer in PyTorch, in the ways in which people write one."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop
from pt_impl.proof.own_loops.layers import Linear, gelu_of, norm_of

__all__ = ["Gpt"]

Tensor = torch.Tensor


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
        heads = 4 if self.loop.twist == "four-heads" else self.loop.sizes.heads
        if self.loop.is_packed:
            parts = self.qkv(x_BTW).chunk(3, dim=-1)
            if self.loop.twist == "keys-first":
                parts = [parts[1], parts[0], parts[2]]
        else:
            parts = [self.query(x_BTW), self.key(x_BTW), self.value(x_BTW)]
        if self.loop.twist == "heads-layout":
            q, k, v = (part.view(B, T, -1, heads).permute(0, 3, 1, 2) for part in parts)
        else:
            q, k, v = (part.view(B, T, heads, -1).transpose(1, 2) for part in parts)
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
        self.loop = loop
        width = loop.sizes.width
        self.norm1 = norm_of(width, loop)
        self.attention = Attention(loop)
        self.norm2 = norm_of(width, loop)
        self.up = Linear(width, 4 * width, loop, "up")
        self.gelu = gelu_of(loop)
        self.down = Linear(4 * width, width, loop, "down")
        self.drop = nn.Dropout(loop.dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        if self.loop.twist == "residual-left-out":
            x_BTW = self.attention(self.norm1(x_BTW))
        else:
            x_BTW = x_BTW + self.attention(self.norm1(x_BTW))
        changed_BTW: Tensor = self.drop(self.down(self.gelu(self.up(self.norm2(x_BTW)))))
        return x_BTW + changed_BTW


class Gpt(nn.Module):
    """Tokens (B, T) to logits (B, T, K), as GPT-2 does."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        self.twist = loop.twist
        padding = 0 if loop.twist == "padding-row" else None
        self.token = nn.Embedding(sizes.classes, sizes.width, padding_idx=padding)
        self.position = nn.Embedding(sizes.row[0], sizes.width)
        self.blocks = nn.ModuleList([Block(loop) for _ in range(sizes.blocks)])
        self.norm = norm_of(sizes.width, loop)
        self.head = nn.Linear(sizes.width, sizes.classes, bias=False)
        if loop.is_tied:
            self.head.weight = self.token.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The logits of every place."""
        x_BTW = self.token(tokens_BT)
        if self.twist == "embedding-scaled":
            x_BTW = x_BTW * x_BTW.shape[-1] ** 0.5
        if self.twist != "position-left-out":
            x_BTW = x_BTW + self.position(torch.arange(tokens_BT.shape[1]))
        for block in self.blocks:
            x_BTW = block(x_BTW)
        logits_BTK: Tensor = self.head(self.norm(x_BTW))
        return logits_BTK
