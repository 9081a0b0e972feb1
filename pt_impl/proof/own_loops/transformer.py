"""A transformer in PyTorch, in the ways in which people write one."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop
from pt_impl.proof.own_loops.layers import Linear, gelu_of, norm_of

__all__ = ["Gpt"]

Tensor = torch.Tensor


class Rope(nn.Module):
    """A rotary embedding of queries or keys (B, heads, T, D)."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, x_BHTD: Tensor) -> Tensor:
        T, D = x_BHTD.shape[-2:]
        place_T = torch.arange(T, dtype=torch.float64) + self.loop.first_position
        rate_P = self.loop.rope_base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
        angle_TP = place_T[:, None] * rate_P
        cos_TP, sin_TP = angle_TP.cos().to(x_BHTD), angle_TP.sin().to(x_BHTD)
        if self.loop.rope_pairs == "halves":
            left, right = x_BHTD.chunk(2, -1)
        else:
            left, right = x_BHTD[..., ::2], x_BHTD[..., 1::2]
        turned = left * cos_TP - right * sin_TP, right * cos_TP + left * sin_TP
        if self.loop.rope_pairs == "halves":
            return torch.cat(turned, -1)
        return torch.stack(turned, -1).flatten(-2)


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
        if loop.positions == "rope":
            self.q_rope = Rope(loop)
            self.k_rope = Rope(loop)

    def forward(self, x_BTW: Tensor) -> Tensor:
        B, T, W = x_BTW.shape
        heads = self.loop.sizes.heads
        if self.loop.is_packed:
            parts = self.qkv(x_BTW).chunk(3, dim=-1)
        else:
            parts = [self.query(x_BTW), self.key(x_BTW), self.value(x_BTW)]
        q, k, v = (part.view(B, T, heads, W // heads).transpose(1, 2) for part in parts)
        if self.loop.positions == "rope":
            q, k = self.q_rope(q), self.k_rope(k)
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
        if loop.mlp == "swiglu":
            self.gate = Linear(width, 4 * width, loop, "gate")
            self.silu = nn.SiLU()
        else:
            self.gelu = gelu_of(loop)
        self.down = Linear(4 * width, width, loop, "down")
        self.drop = nn.Dropout(loop.dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        x_BTW = x_BTW + self.attention(self.norm1(x_BTW))
        y_BTW = self.norm2(x_BTW)
        if self.loop.mlp == "swiglu":
            hidden = self.silu(self.gate(y_BTW)) * self.up(y_BTW)
        else:
            hidden = self.gelu(self.up(y_BTW))
        changed_BTW: Tensor = self.drop(self.down(hidden))
        return x_BTW + changed_BTW


class Gpt(nn.Module):
    """Tokens (B, T) to logits (B, T, K), as GPT-2 does."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        self.token = nn.Embedding(sizes.classes, sizes.width)
        self.loop = loop
        if loop.positions == "learned":
            self.position = nn.Embedding(sizes.row[0], sizes.width)
        self.blocks = nn.ModuleList([Block(loop) for _ in range(sizes.blocks)])
        self.norm = norm_of(sizes.width, loop)
        self.head = nn.Linear(sizes.width, sizes.classes, bias=False)
        if loop.is_tied:
            self.head.weight = self.token.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The logits of every place."""
        x_BTW = self.token(tokens_BT)
        if self.loop.positions == "learned":
            x_BTW = x_BTW + self.position(torch.arange(tokens_BT.shape[1]))
        for block in self.blocks:
            x_BTW = block(x_BTW)
        logits_BTK: Tensor = self.head(self.norm(x_BTW))
        return logits_BTK
