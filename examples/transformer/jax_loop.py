"""The same transformer, ported to JAX, Flax (NNX) and Optax.

python jax_loop.py --out jax.trace
python jax_loop.py --out jax.trace --naive              # as one ports it at first
python jax_loop.py --out jax.trace --naive gelu decay   # with these traps alone
"""

import argparse
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from lockstep import Recorder

__all__ = ["TRAPS", "Transformer", "from_torch", "to_torch", "train"]

TRAPS = ("eps", "mask", "softmax", "gelu", "decay")
PROJECTIONS = ("query", "key", "value")


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, **_: Any
) -> jax.Array:
    """Attention over (B, T, heads, width of a head), with its softmax in the dtype of the
    inputs.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), value)


class Transformer(nnx.Module):
    """Tokens (B, T) to logits (B, T, 11): one block, norms first."""

    def __init__(self, naive: Collection[str], rngs: nnx.Rngs) -> None:
        eps = 1e-6 if "eps" in naive else 1e-5  # Flax's default; PyTorch's
        # jax.nn.dot_product_attention takes its softmax in float32, whatever it is given
        attention_fn = nnx.dot_product_attention if "softmax" in naive else attend
        self.token = nnx.Embed(11, 16, param_dtype=jnp.float64, rngs=rngs)
        self.position = nnx.Embed(12, 16, param_dtype=jnp.float64, rngs=rngs)
        self.norm1 = nnx.LayerNorm(16, epsilon=eps, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 16, use_bias=False, attention_fn=attention_fn, decode=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(16, epsilon=eps, rngs=rngs)
        self.up = nnx.Linear(16, 32, rngs=rngs)
        self.down = nnx.Linear(32, 16, rngs=rngs)
        self.norm3 = nnx.LayerNorm(16, epsilon=eps, rngs=rngs)
        self.head = nnx.Linear(16, 11, rngs=rngs)
        self.naive = tuple(naive)

    def __call__(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """The output of every layer by name; the last are the logits of the token after each."""
        length, out = tokens.shape[1], {}
        everywhere = jnp.ones((length, length), bool)
        # True: seen; to nn.MultiheadAttention it is hidden
        mask = jnp.triu(everywhere, 1) if "mask" in self.naive else jnp.tril(everywhere)
        out["token"], out["position"] = self.token(tokens), self.position(jnp.arange(length))
        x = out["token"] + out["position"]
        out["norm1"] = self.norm1(x)
        out["attention"] = self.attention(out["norm1"], mask=mask)
        x = x + out["attention"]
        out["norm2"] = self.norm2(x)
        out["up"] = self.up(out["norm2"])
        out["gelu"] = nnx.gelu(out["up"], approximate="gelu" in self.naive)  # Flax's default: True
        out["down"] = self.down(out["gelu"])
        out["norm3"] = self.norm3(x + out["down"])
        out["head"] = self.head(out["norm3"])
        return out


def from_torch(start: Mapping[str, NDArray]) -> dict[str, Any]:
    """PyTorch's parameters as this module's state: [out, in] -> [in, out], heads on an axis of
    their own.
    """
    found: dict[str, Any] = {}
    for layer in ("token", "position"):
        found[layer] = {"embedding": start[f"{layer}.weight"]}
    for layer in ("norm1", "norm2", "norm3"):
        found[layer] = {"scale": start[f"{layer}.weight"], "bias": start[f"{layer}.bias"]}
    for layer in ("up", "down", "head"):
        found[layer] = {"kernel": start[f"{layer}.weight"].T, "bias": start[f"{layer}.bias"]}
    kernels = {
        projection: weight.T.reshape(16, 2, 8)
        for projection, weight in zip(PROJECTIONS, np.split(start["attention.in_proj_weight"], 3))
    }
    kernels["out"] = start["attention.out_proj.weight"].T.reshape(2, 8, 16)
    found["attention"] = {projection: {"kernel": kernel} for projection, kernel in kernels.items()}
    return jax.tree.map(jnp.asarray, found)


def to_torch(state: nnx.State) -> dict[str, jax.Array]:
    """The way back, of parameters, gradients or moments, so that both loops record the same names
    and layouts.
    """
    arrays, found = nnx.to_pure_dict(state), {}
    kernels = {
        projection: tensors["kernel"].reshape(16, 16)
        for projection, tensors in arrays.pop("attention").items()
    }
    found["attention.in_proj_weight"] = jnp.concatenate(
        [kernels[projection].T for projection in PROJECTIONS]
    )
    found["attention.out_proj.weight"] = kernels["out"].T
    for layer, tensors in arrays.items():
        for name, array in tensors.items():
            found[f"{layer}.{'bias' if name == 'bias' else 'weight'}"] = (
                array.T if name == "kernel" else array
            )
    return found


def train(recorder: Recorder, start: Mapping[str, NDArray], naive: Collection[str] = ()) -> float:
    """Train from the parameters of `start` and record every update; gives the last loss."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(naive, nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, from_torch(start))
    model = nnx.merge(graph, state)
    decay = 1e-4 if "decay" in naive else 1e-2  # Optax's default; PyTorch's
    optimizer = nnx.Optimizer(model, optax.adamw(0.01, weight_decay=decay), wrt=nnx.Param)

    @nnx.jit
    def update(
        model: Transformer, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array
    ) -> dict[str, Any]:
        def loss_of(model: Transformer) -> Any:
            forward = model(x)
            return optax.softmax_cross_entropy_with_integer_labels(
                forward["head"], y
            ).mean(), forward

        (loss, forward), gradients = nnx.value_and_grad(loss_of, has_aux=True)(model)
        optimizer.update(model, gradients)
        adam = optimizer.opt_state[0]
        return {
            "forward": forward,
            "loss": loss,
            "gradients": to_torch(gradients),
            "moments": {"first": to_torch(adam.mu), "second": to_torch(adam.nu)},
            "parameters": to_torch(nnx.state(model)),
        }

    recorder.start(to_torch(state))
    tokens = jnp.asarray(start["tokens"])
    for rows in start["rows"]:
        x, y = tokens[rows, :-1], tokens[rows, 1:]
        found = update(model, optimizer, x, y)
        recorder.update(batch={"x": x, "y": y}, lr=0.01, **found)
    return float(found["loss"])


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
    jax.config.update("jax_enable_x64", True)
    with Recorder(options.out, backend="jax") as recorder:
        loss = train(recorder, np.load("start.npz"), naive)
    print(f"{options.out}: {recorder.done} updates, last loss {loss:.6f}")


if __name__ == "__main__":
    main()
