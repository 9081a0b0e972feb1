"""A transformer with rotary positions, RMSNorm and SwiGLU in PyTorch, as people write one.

Its code asks for the loop's `twist` where one is planted.
"""

import torch
import torch.nn.functional as F
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["Llama"]

Tensor = torch.Tensor


class Rope(nn.Module):
    """A rotary embedding of queries or keys (B, heads, T, D)."""

    def __init__(self, loop: Loop, is_of_queries: bool) -> None:
        super().__init__()
        self.twist = loop.twist
        self.is_of_queries = is_of_queries

    def forward(self, x_BHTD: Tensor) -> Tensor:
        T, D = x_BHTD.shape[-2:]
        part = D - 2 if self.twist == "rope-part" else D
        base = 5e5 if self.twist == "rope-base" else 1e4
        place_T = torch.arange(T, dtype=torch.float64)
        if self.twist == "rope-position" and self.is_of_queries:
            place_T = place_T + 1
        elif self.twist == "rope-scaled":
            place_T = place_T / 2
        elif self.twist == "rope-sense":
            place_T = -place_T
        angle_TP = place_T[:, None] * base ** (
            -torch.arange(0, part, 2, dtype=torch.float64) / part
        )
        cos_TP, sin_TP = angle_TP.cos().to(x_BHTD), angle_TP.sin().to(x_BHTD)
        turning, rest = x_BHTD[..., :part], x_BHTD[..., part:]
        if self.twist == "rope-pairs":
            left, right = turning[..., ::2], turning[..., 1::2]
        else:
            left, right = turning.chunk(2, -1)
        turned = left * cos_TP - right * sin_TP, right * cos_TP + left * sin_TP
        if self.twist == "rope-pairs":
            return torch.stack(turned, -1).flatten(-2)
        return torch.cat([*turned, rest], -1)


class Scores(nn.Module):
    """The scaled and masked products of queries and keys (B, heads, T, D)."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        H, T, D = q.shape[1:]
        scores_BHTT: Tensor = q @ k.transpose(-2, -1) * (self.loop.attention_scale / D**0.5)
        twist = self.loop.twist
        if twist == "alibi":
            place_T = torch.arange(T)
            slope_H = 2.0 ** (-8 * (torch.arange(H) + 1) / H)
            scores_BHTT = scores_BHTT - slope_H[:, None, None] * (place_T[:, None] - place_T)
        later_TT = torch.ones(T, T, dtype=torch.bool).triu(1)
        if twist == "mask-strict":
            later_TT = torch.ones(T, T, dtype=torch.bool).triu(2)
        if not self.loop.is_causal:
            return scores_BHTT
        return scores_BHTT.masked_fill(later_TT, float("-inf"))


class Attention(nn.Module):
    """Causal attention in which two heads of queries share one of keys."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        width = loop.sizes.width
        self.loop = loop
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width // 2, bias=False)
        self.value = nn.Linear(width, width // 2, bias=False)
        self.q_rope = Rope(loop, is_of_queries=True)
        self.k_rope = Rope(loop, is_of_queries=False)
        self.scores = Scores(loop)
        self.softmax = nn.Softmax(-2 if loop.twist == "softmax-axis" else -1)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BTW: Tensor) -> Tensor:
        B, T, W = x_BTW.shape
        depth = W // self.loop.sizes.heads
        q, k, v = (
            self._in_heads(part, depth)
            for part in (self.query(x_BTW), self.key(x_BTW), self.value(x_BTW))
        )
        q, k = self.q_rope(q), self.k_rope(k)
        if self.loop.twist == "groups-tiled":
            k, v = k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)
        else:
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        mixed = self.softmax(self.scores(q, k)) @ v.to(q)
        if self.loop.twist != "heads-not-turned-back":
            mixed = mixed.transpose(1, 2)
        joined_BTW: Tensor = self.out(mixed.reshape(B, T, W))
        return joined_BTW

    def _in_heads(self, x_BTW: Tensor, depth: int) -> Tensor:
        B, T, _ = x_BTW.shape
        return x_BTW.view(B, T, -1, depth).transpose(1, 2)


class Glu(nn.Module):
    """The second half of an array, gated by the SiLU of the first."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.twist = loop.twist

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, -1)
        if self.twist == "glu-halves":
            gate, value = value, gate
        return (F.gelu(gate) if self.twist == "glu-gelu" else F.silu(gate)) * value


class Block(nn.Module):
    """A block with its norms first."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        width = loop.sizes.width
        self.norm1 = nn.RMSNorm(width, eps=loop.eps)
        self.attention = Attention(loop)
        self.norm2 = nn.RMSNorm(width, eps=loop.eps)
        self.gate_up = nn.Linear(width, 4 * width, bias=False)
        self.glu = Glu(loop)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.drop = nn.Dropout(loop.dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        x_BTW = x_BTW + self.attention(self.norm1(x_BTW))
        changed_BTW: Tensor = self.drop(self.down(self.glu(self.gate_up(self.norm2(x_BTW)))))
        return x_BTW + changed_BTW


class Llama(nn.Module):
    """Tokens (B, T) to logits (B, T, K), as Llama does, with its head tied to the embedding."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        sizes = loop.sizes
        self.token = nn.Embedding(sizes.classes, sizes.width)
        self.blocks = nn.ModuleList([Block(loop) for _ in range(sizes.blocks)])
        self.norm = nn.RMSNorm(sizes.width, eps=loop.eps)
        self.head = nn.Linear(sizes.width, sizes.classes, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The logits of every place."""
        x_BTW = self.token(tokens_BT)
        for block in self.blocks:
            x_BTW = block(x_BTW)
        logits_BTK: Tensor = self.head(self.norm(x_BTW))
        return logits_BTK
