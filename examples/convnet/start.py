"""Draw what both loops start from into start.npz: images, labels, the order of the rows and the
first parameters.

python start.py

Everything random is drawn here, in NumPy. The parameters have PyTorch's names and layouts.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

__all__ = ["draw"]

TRAINING, HELD_OUT, BATCH, EPOCHS = 256, 128, 32, 4


def draw() -> dict[str, NDArray]:
    """By name: images x (N, 1, 8, 8) in [0, 1] and labels y (N,), the last 128 held out; rows (T,
    B), the training rows of each update; and the parameters."""
    generator = np.random.default_rng(0)
    digits = load_digits()
    chosen = generator.permutation(len(digits.target))[: TRAINING + HELD_OUT]
    start = {"x": digits.images[chosen, None] / 16, "y": digits.target[chosen]}
    start["rows"] = np.concatenate(
        [generator.permutation(TRAINING).reshape(-1, BATCH) for _ in range(EPOCHS)]
    )
    for layer, shape in {"conv1": (8, 1, 3, 3), "conv2": (16, 8, 3, 3), "linear": (10, 64)}.items():
        limit = np.prod(shape[1:]) ** -0.5
        start[f"{layer}.weight"] = generator.uniform(-limit, limit, shape)
    start["linear.bias"] = generator.uniform(-limit, limit, 10)
    for layer, channels in {"norm1": 8, "norm2": 16}.items():
        start[f"{layer}.weight"] = start[f"{layer}.running_var"] = np.ones(channels)
        start[f"{layer}.bias"] = start[f"{layer}.running_mean"] = np.zeros(channels)
    return start


if __name__ == "__main__":
    np.savez("start.npz", **draw())
