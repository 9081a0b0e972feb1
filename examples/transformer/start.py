"""Draw what both loops start from into start.npz: sequences, the order of the rows and the first
parameters.

python start.py

Everything random is drawn here, in NumPy. The parameters have PyTorch's names and layouts.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw"]

VOCABULARY, LENGTH, WIDTH, HIDDEN = 11, 12, 16, 32
ROWS, BATCH, EPOCHS = 256, 32, 3


def draw() -> dict[str, NDArray]:
    """By name: tokens (N, LENGTH + 1), of which most repeat the last but one; rows (T, B) of each
    update; and the parameters."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(VOCABULARY, size=(ROWS, LENGTH + 1))
    repeats = generator.random(tokens.shape) < 0.9
    for t in range(2, LENGTH + 1):
        tokens[:, t] = np.where(repeats[:, t], tokens[:, t - 2], tokens[:, t])
    start = {"tokens": tokens}
    start["rows"] = np.concatenate(
        [generator.permutation(ROWS).reshape(-1, BATCH) for _ in range(EPOCHS)]
    )
    weights = {
        "token.weight": (VOCABULARY, WIDTH),
        "position.weight": (LENGTH, WIDTH),
        "attention.in_proj_weight": (3 * WIDTH, WIDTH),
        "attention.out_proj.weight": (WIDTH, WIDTH),
        "up.weight": (HIDDEN, WIDTH),
        "down.weight": (WIDTH, HIDDEN),
        "head.weight": (VOCABULARY, WIDTH),
    }
    for name, shape in weights.items():
        start[name] = generator.normal(0, shape[1] ** -0.5, shape)
        if name in ("up.weight", "down.weight", "head.weight"):
            start[name.replace("weight", "bias")] = np.zeros(shape[0])
    for layer in ("norm1", "norm2", "norm3"):
        start[f"{layer}.weight"], start[f"{layer}.bias"] = np.ones(WIDTH), np.zeros(WIDTH)
    return start


if __name__ == "__main__":
    np.savez("start.npz", **draw())
