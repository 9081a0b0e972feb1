"""The models in JAX, as functions of a tree of parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lockstep.studies.prove.own_loops.start import layout_of, parts_of
from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["MODELS", "tree_of"]

Tree = Any


def tree_of(loop: Loop) -> Tree:
    """PyTorch's parameters and buffers as the tree."""
    tree: Tree = {}
    for name, array in parts_of(loop).items():
        layout = layout_of(name, array)
        turned = array.transpose(np.argsort(layout.axes)) if layout.axes else array
        *path, leaf = layout.name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = jnp.asarray(turned, loop.dtype)
    return tree


def narrow(x: jax.Array, loop: Loop) -> jax.Array:
    return x.astype(loop.compute) if loop.compute else x


def linear(tree: Tree, x: jax.Array, loop: Loop) -> jax.Array:
    y = narrow(x, loop) @ narrow(tree["kernel"], loop)
    return y + narrow(tree["bias"], loop) if "bias" in tree else y


def norm(tree: Tree, x: jax.Array, loop: Loop) -> jax.Array:
    """A LayerNorm with its statistics in float32 at least, handed on in the dtype that came."""
    y = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    if loop.layers == "library":
        var = jnp.var(y, axis=-1, keepdims=True)
    else:  # as Flax has it by default
        var = jnp.square(y).mean(-1, keepdims=True) - jnp.square(mean)
    scaled = (y - mean) * jax.lax.rsqrt(var + loop.eps)
    shifted: jax.Array = scaled * tree["scale"] + tree["bias"]
    return shifted.astype(x.dtype)


def gelu(x: jax.Array, loop: Loop) -> jax.Array:
    if loop.layers == "library":
        return jax.nn.gelu(x, approximate=loop.gelu == "tanh")
    y = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    return (y * 0.5 * jax.scipy.special.erfc(-y / np.sqrt(2))).astype(x.dtype)


def attention(tree: Tree, x_BTW: jax.Array, loop: Loop) -> jax.Array:
    B, T, W = x_BTW.shape
    heads = loop.sizes.heads
    if loop.is_packed:
        parts = jnp.split(linear(tree["qkv"], x_BTW, loop), 3, axis=-1)
    else:
        parts = [linear(tree[name], x_BTW, loop) for name in ("query", "key", "value")]
    q, k, v = (part.reshape(B, T, heads, W // heads) for part in parts)
    mask_TT = jnp.tril(jnp.ones((T, T), bool))
    scale = loop.attention_scale / np.sqrt(W // heads)
    if loop.attention == "library" and x_BTW.dtype != jnp.float64:
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=loop.is_causal, scale=scale)
    else:
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * jnp.asarray(scale, q.dtype)
        if loop.is_causal:
            scores = jnp.where(mask_TT, scores, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return linear(tree["out"], mixed.reshape(B, T, W), loop)


def gpt(tree: Tree, tokens_BT: jax.Array, loop: Loop) -> jax.Array:
    tokens_VW, positions_TW = tree["token"]["embedding"], tree["position"]["embedding"]
    if loop.residual == "bfloat16":
        tokens_VW, positions_TW = narrow(tokens_VW, loop), narrow(positions_TW, loop)
    x_BTW = tokens_VW[tokens_BT] + positions_TW[: tokens_BT.shape[1]]
    for block in tree["blocks"].values():
        x_BTW = x_BTW + attention(block["attention"], norm(block["norm1"], x_BTW, loop), loop)
        hidden = linear(block["up"], norm(block["norm2"], x_BTW, loop), loop)
        x_BTW = x_BTW + linear(block["down"], gelu(hidden, loop), loop)
    kernel = tree["token"]["embedding"].T if loop.is_tied else tree["head"]["kernel"]
    return linear({"kernel": kernel}, norm(tree["norm"], x_BTW, loop), loop)


def mlp(tree: Tree, x_BD: jax.Array, loop: Loop) -> jax.Array:
    x = x_BD
    for i in (1, 2):
        x = gelu(norm(tree[f"norm{i}"], linear(tree[f"linear{i}"], x, loop), loop), loop)
    return linear(tree["head"], x, loop)


def convolution(tree: Tree, x_BHWC: jax.Array, loop: Loop) -> jax.Array:
    y_BHWC = jax.lax.conv_general_dilated(
        narrow(x_BHWC, loop),
        narrow(tree["kernel"], loop),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y_BHWC + narrow(tree["bias"], loop)


def group_norm(tree: Tree, x_BHWC: jax.Array, loop: Loop) -> jax.Array:
    B, H, W, C = x_BHWC.shape
    y = x_BHWC if x_BHWC.dtype == jnp.float64 else x_BHWC.astype(jnp.float32)
    grouped = y.reshape(B, H, W, 2, C // 2)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    var = grouped.var((1, 2, 4), keepdims=True)
    scaled = ((grouped - mean) * jax.lax.rsqrt(var + loop.eps)).reshape(x_BHWC.shape)
    shifted: jax.Array = scaled * tree["scale"] + tree["bias"]
    return shifted.astype(x_BHWC.dtype)


def convnet(tree: Tree, x_BCHW: jax.Array, loop: Loop) -> jax.Array:
    """Images come as PyTorch lays them out."""
    x = convolution(tree["conv1"], x_BCHW.transpose(0, 2, 3, 1), loop)
    x = jax.nn.relu(group_norm(tree["norm1"], x, loop))
    B, H, W, C = x.shape
    x = x.reshape(B, H // 2, 2, W // 2, 2, C).max((2, 4))
    x = jax.nn.relu(group_norm(tree["norm2"], convolution(tree["conv2"], x, loop), loop))
    return linear(tree["head"], x.mean((1, 2)), loop)


def recurrent(tree: Tree, x_BTD: jax.Array, loop: Loop) -> jax.Array:
    rnn = tree["rnn"]
    gates = 4 if loop.model == "lstm" else 3
    known = {"kernel": rnn["kernel_hh_l0"], "bias": rnn["bias_hh_l0"]}
    given_BTG = linear({"kernel": rnn["kernel_ih_l0"], "bias": rnn["bias_ih_l0"]}, x_BTD, loop)
    width = known["kernel"].shape[0]
    zeros_BW = jnp.zeros((len(x_BTD), width), given_BTG.dtype)

    def step(state: Any, given_BG: jax.Array) -> Any:
        h_BW, c_BW = state
        left = jnp.split(given_BG, gates, -1)
        right = jnp.split(linear(known, h_BW, loop), gates, -1)
        if gates == 4:
            i, f, g, o = (one + other for one, other in zip(left, right))
            c_BW = jax.nn.sigmoid(f) * c_BW + jax.nn.sigmoid(i) * jnp.tanh(g)
            h_BW = jax.nn.sigmoid(o) * jnp.tanh(c_BW)
        else:
            r, z = (jax.nn.sigmoid(one + other) for one, other in zip(left[:2], right[:2]))
            h_BW = (1 - z) * jnp.tanh(left[2] + r * right[2]) + z * h_BW
        return (h_BW, c_BW), h_BW

    (h_BW, _), _ = jax.lax.scan(step, (zeros_BW, zeros_BW), given_BTG.swapaxes(0, 1))
    return linear(tree["head"], h_BW, loop)


MODELS: dict[str, Callable[[Tree, jax.Array, Loop], jax.Array]] = {
    "gpt": gpt,
    "mlp": mlp,
    "convnet": convnet,
    "lstm": recurrent,
    "gru": recurrent,
}
