"""A GPT-2-like model in plain PyTorch: what a recorder is timed and weighed on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SIZES", "Size", "Transformer"]


@dataclass(frozen=True)
class Size:
    """The sizes of a model and of its batches.

    Attributes:
        layers: blocks.
        width: E, of the embeddings.
        heads: of each attention.
        rows: B, sequences of a batch.
        length: T, tokens of a sequence.
    """

    layers: int
    width: int
    heads: int
    rows: int
    length: int
    vocabulary: int = 50_257


SIZES = {
    "1M": Size(layers=2, width=64, heads=2, rows=2, length=32, vocabulary=15_000),
    "27M": Size(layers=9, width=320, heads=5, rows=8, length=128),
    "124M": Size(layers=12, width=768, heads=12, rows=2, length=256),
}
"""Number of parameters -> sizes; 124M is GPT-2 small."""


class Attention(nn.Module):
    """Causal self-attention, with queries, keys and values in one product."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.out = nn.Linear(size.width, size.width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """The outputs (B, T, E)."""
        rows, length, width = x_BTE.shape
        q, k, v = [
            part.view(rows, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x_BTE).split(width, dim=2)
        ]
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return merged


class Block(nn.Module):
    """Attention and two layers, each after a norm and beside a shortcut."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width)
        self.attention = Attention(size)
        self.norm2 = nn.LayerNorm(size.width)
        self.wide = nn.Linear(size.width, 4 * size.width)
        self.gelu = nn.GELU(approximate="tanh")
        self.narrow = nn.Linear(4 * size.width, size.width)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """The outputs (B, T, E)."""
        x_BTE = x_BTE + self.attention(self.norm1(x_BTE))
        added: Tensor = x_BTE + self.narrow(self.gelu(self.wide(self.norm2(x_BTE))))
        return added


class Transformer(nn.Module):
    """Token and position embeddings, blocks, a norm, and a head tied to the embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.length, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The logits (B, T, vocabulary)."""
        places_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTE = self.tokens(tokens_BT) + self.positions(places_T)
        for block in self.blocks:
            x_BTE = block(x_BTE)
        logits: Tensor = self.head(self.norm(x_BTE))
        return logits
