"""Train a tiny transformer to predict the next token in PyTorch.

python torch_loop.py --out torch.trace
"""

import argparse
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from lockstep import Recorder

__all__ = ["Transformer", "train"]


class Transformer(nn.Module):
    """Tokens (B, T) to logits (B, T, 11): one block, norms first."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(11, 16)
        self.position = nn.Embedding(12, 16)
        self.norm1 = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, num_heads=2, bias=False, batch_first=True)
        self.norm2 = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.gelu = nn.GELU()
        self.down = nn.Linear(32, 16)
        self.norm3 = nn.LayerNorm(16)
        self.head = nn.Linear(16, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the token after each."""
        length = tokens.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)  # True: hidden
        x = self.token(tokens) + self.position(torch.arange(length))
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, attn_mask=later, need_weights=False)[0]
        x = x + self.down(self.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x))


def train(recorder: Recorder, start: Mapping[str, NDArray]) -> float:
    """Train from the parameters of `start` and record every update; gives the last loss."""
    model = Transformer().double()
    model.load_state_dict({name: torch.tensor(start[name]) for name in model.state_dict()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    recorder.watch(model, optimizer)
    tokens = torch.tensor(start["tokens"])
    for rows in start["rows"]:
        x, y = tokens[rows, :-1], tokens[rows, 1:]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        recorder.update(batch={"x": x, "y": y}, loss=loss)
    return loss.item()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="torch.trace", help="where the trace goes")
    out = parser.parse_args().out
    with Recorder(out, backend="torch") as recorder:
        loss = train(recorder, np.load("start.npz"))
    print(f"{out}: {recorder.done} updates, last loss {loss:.6f}")


if __name__ == "__main__":
    main()
