"""Make what both loops start from: a tiny GPT-2 with random weights in gpt2/, as `save_pretrained`
writes it, and sequences of tokens in start.npz.

python start.py
"""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2LMHeadModel

__all__ = ["CONFIG", "draw"]

VOCABULARY, LENGTH, ROWS, BATCH, EPOCHS = 50, 16, 64, 8, 2
CONFIG = GPT2Config(
    vocab_size=VOCABULARY,
    n_positions=LENGTH,
    n_embd=32,
    n_layer=2,
    n_head=4,
    embd_pdrop=0.0,  # dropout is drawn otherwise in JAX: two loops can only agree without it
    attn_pdrop=0.0,
    resid_pdrop=0.0,
    bos_token_id=0,
    eos_token_id=0,
)


def draw() -> dict[str, NDArray]:
    """By name: tokens (N, LENGTH), of which most are one more than the last; labels, which are the
    tokens, and -100 where a shorter sequence is padded; and the rows (T, B) of each update.
    """
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, VOCABULARY, (ROWS, LENGTH))
    for t in range(1, LENGTH):
        follows = generator.random(ROWS) < 0.9
        tokens[:, t] = np.where(follows, tokens[:, t - 1] % (VOCABULARY - 1) + 1, tokens[:, t])
    lengths = generator.integers(LENGTH // 2, LENGTH + 1, ROWS)
    is_padding = np.arange(LENGTH) >= lengths[:, None]
    orders = [generator.permutation(ROWS).reshape(-1, BATCH) for _ in range(EPOCHS)]
    return {
        "tokens": np.where(is_padding, 0, tokens),
        "labels": np.where(is_padding, -100, tokens),
        "rows": np.concatenate(orders),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    GPT2LMHeadModel(CONFIG).save_pretrained("gpt2")
    np.savez("start.npz", **draw())
