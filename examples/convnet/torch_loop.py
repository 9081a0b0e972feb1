"""Train a small convolutional net on digits in PyTorch.

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

__all__ = ["ConvNet", "train"]


class ConvNet(nn.Module):
    """Images (B, 1, 8, 8) to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.relu1(self.norm1(self.conv1(x)))  # (B, 8, 8, 8)
        x = self.relu2(self.norm2(self.conv2(x)))  # (B, 16, 4, 4)
        return self.linear(self.flatten(self.pool(x)))  # (B, 16, 2, 2), (B, 64)


def train(recorder: Recorder, start: Mapping[str, NDArray]) -> float:
    """Train from the parameters of `start` and record every update; gives the held-out accuracy."""
    model = ConvNet().double()
    model.load_state_dict(
        {name: torch.tensor(start[name]) for name in start if "." in name}, strict=False
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    recorder.watch(model, optimizer)
    x, y = torch.tensor(start["x"]), torch.tensor(start["y"])
    for rows in start["rows"]:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        recorder.update(batch={"x": x[rows], "y": y[rows]}, loss=loss)
    model.eval()
    with torch.no_grad():
        right = model(x[256:]).argmax(1) == y[256:]
    return right.double().mean().item()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="torch.trace", help="where the trace goes")
    out = parser.parse_args().out
    with Recorder(out, backend="torch") as recorder:
        accuracy = train(recorder, np.load("start.npz"))
    print(f"{out}: {recorder.done} updates, held-out accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
