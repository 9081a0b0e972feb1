"""Train a tiny GPT-2 of Hugging Face's in PyTorch.

python torch_loop.py --out torch.trace
"""

import argparse
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel, get_linear_schedule_with_warmup

from lockstep import Recorder

__all__ = ["groups_of", "train"]


def groups_of(model: torch.nn.Module) -> list[dict]:
    """Matrices and embeddings, which decay, and biases and norms, which do not."""
    parameters = list(model.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
        {
            "params": [parameter for parameter in parameters if parameter.ndim < 2],
            "weight_decay": 0,
        },
    ]


def train(recorder: Recorder, start: Mapping[str, NDArray]) -> float:
    """Train the model in gpt2/ and record every update; gives the last loss."""
    model = GPT2LMHeadModel.from_pretrained("gpt2", local_files_only=True).train()
    optimizer = torch.optim.AdamW(groups_of(model), lr=3e-3, weight_decay=0.1)
    scheduler = get_linear_schedule_with_warmup(optimizer, 4, len(start["rows"]))
    recorder.watch(model, optimizer)
    for rows in start["rows"]:
        tokens, labels = (torch.tensor(start[name][rows]) for name in ("tokens", "labels"))
        optimizer.zero_grad()
        loss = model(tokens, labels=labels).loss  # the model shifts the labels
        loss.backward()
        optimizer.step()
        scheduler.step()
        recorder.update(loss=loss)
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
