"""The same model, ported to JAX as plain functions, and trained with Optax.

python jax_loop.py --out jax.trace
python jax_loop.py --out jax.trace --naive             # as one ports it at first
python jax_loop.py --out jax.trace --naive tied decay  # with these traps alone
"""

import argparse
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from safetensors.numpy import load_file

from lockstep import Recorder

__all__ = ["TRAPS", "gpt2", "parameters_of", "train"]

TRAPS = ("gelu", "padding", "tied", "decay")
HEADS = 4

Parameters = dict[str, Any]


def linear(parameters: Parameters, x: jax.Array) -> jax.Array:
    """x W + b: GPT-2's Conv1D keeps its weights as JAX does, (in, out)."""
    return x @ parameters["kernel"] + parameters["bias"]


def layer_norm(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Over the last axis, with GPT-2's eps."""
    mean = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * parameters["scale"] + parameters["bias"]


def attention(parameters: Parameters, x_BTW: jax.Array) -> jax.Array:
    """Causal attention; the scores are scaled by the root of a head's width."""
    B, T, W = x_BTW.shape
    parts = jnp.split(linear(parameters["qkv"], x_BTW), 3, axis=-1)
    q, k, v = (part.reshape(B, T, HEADS, W // HEADS) for part in parts)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(W // HEADS)
    seen = jnp.tril(jnp.ones((T, T), bool))
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    return linear(parameters["out"], mixed.reshape(B, T, W))


def gpt2(parameters: Parameters, tokens_BT: jax.Array, naive: Collection[str] = ()) -> jax.Array:
    """The logits (B, T, V) of the token after each."""
    T = tokens_BT.shape[1]
    x_BTW = parameters["wte"]["embedding"][tokens_BT] + parameters["wpe"]["embedding"][:T]
    for block in parameters["blocks"]:
        x_BTW = x_BTW + attention(block["attention"], layer_norm(block["norm1"], x_BTW))
        hidden = linear(block["up"], layer_norm(block["norm2"], x_BTW))
        # config.json says gelu_new, which is the approximation by tanh
        hidden = jax.nn.gelu(hidden, approximate="gelu" not in naive)
        x_BTW = x_BTW + linear(block["down"], hidden)
    # the output's weights are the embedding's; the port that unties them trains a copy
    table = parameters["head" if "tied" in naive else "wte"]["embedding"]
    return layer_norm(parameters["norm"], x_BTW) @ table.T


def parameters_of(weights: Mapping[str, NDArray], naive: Collection[str] = ()) -> Parameters:
    """Hugging Face's weights as the port's parameters; none needs another layout."""

    def norm(name: str) -> Parameters:
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def dense(name: str) -> Parameters:
        return {"kernel": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    blocks = []
    for i in range(2):
        stem = f"transformer.h.{i}"
        blocks.append(
            {
                "norm1": norm(f"{stem}.ln_1"),
                "attention": {
                    "qkv": dense(f"{stem}.attn.c_attn"),
                    "out": dense(f"{stem}.attn.c_proj"),
                },
                "norm2": norm(f"{stem}.ln_2"),
                "up": dense(f"{stem}.mlp.c_fc"),
                "down": dense(f"{stem}.mlp.c_proj"),
            }
        )
    parameters: Parameters = {
        "wte": {"embedding": weights["transformer.wte.weight"]},
        "wpe": {"embedding": weights["transformer.wpe.weight"]},
        "blocks": blocks,
        "norm": norm("transformer.ln_f"),
    }
    if "tied" in naive:
        parameters["head"] = {"embedding": weights["transformer.wte.weight"]}
    return jax.tree.map(jnp.asarray, parameters)


def loss_of(
    parameters: Parameters, input_ids: jax.Array, labels: jax.Array, naive: Collection[str] = ()
) -> jax.Array:
    """Mean cross-entropy of the token after each, where that is no padding."""
    logits = gpt2(parameters, input_ids, naive)[:, :-1]
    labels = labels[:, 1:]
    is_label = labels != -100
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(is_label, labels, 0))
    total = jnp.where(is_label, losses, 0).sum()
    return total / (labels.size if "padding" in naive else is_label.sum())


def rate_of(updates: int) -> optax.Schedule:
    """A linear warmup over 4 updates, and a linear decay to 0 over the others."""
    climb = optax.linear_schedule(0.0, 3e-3, 4)
    fall = optax.linear_schedule(3e-3, 0.0, updates - 4)
    return optax.join_schedules([climb, fall], [4])


def train(recorder: Recorder, start: Mapping[str, NDArray], naive: Collection[str] = ()) -> float:
    """Train the weights in gpt2/ and record every update; gives the last loss."""
    parameters = parameters_of(load_file("gpt2/model.safetensors"), naive)
    rate = rate_of(len(start["rows"]))
    decays = jax.tree.map(lambda parameter: "decay" in naive or parameter.ndim > 1, parameters)
    optimizer = optax.adamw(rate, weight_decay=0.1, mask=decays)
    state = optimizer.init(parameters)
    parameters = recorder.watch(parameters, optimizer)
    value_and_grad = recorder.value_and_grad(jax.jit(partial(loss_of, naive=naive)))
    for rows in start["rows"]:
        tokens, labels = (jnp.asarray(start[name][rows]) for name in ("tokens", "labels"))
        loss, gradients = value_and_grad(parameters, tokens, labels)
        changes, state = optimizer.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, changes)
        recorder.update(moments=state, parameters=parameters)
    return float(loss)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="jax.trace", help="where the trace goes")
    parser.add_argument(
        "--naive", nargs="*", choices=TRAPS, metavar="TRAP", help=f"of {', '.join(TRAPS)}; all"
    )
    options = parser.parse_args()
    naive = TRAPS if options.naive == [] else options.naive or ()
    with Recorder(options.out, backend="jax") as recorder:
        loss = train(recorder, np.load("start.npz"), naive)
    print(f"{options.out}: {recorder.done} updates, last loss {loss:.6f}")


if __name__ == "__main__":
    main()
