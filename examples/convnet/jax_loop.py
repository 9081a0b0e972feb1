"""The same net, ported to JAX, Flax (Linen) and Optax.

python jax_loop.py --out jax.trace
python jax_loop.py --out jax.trace --naive                     # as one ports it at first
python jax_loop.py --out jax.trace --naive momentum variance   # with these traps alone
"""

import argparse
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from numpy.typing import NDArray

from lockstep import Recorder

__all__ = ["TRAPS", "ConvNet", "train", "variables_of"]

TRAPS = ("padding", "flatten", "momentum", "variance")


class ConvNet(nn.Module):
    """Images (B, 8, 8, 1) to logits (B, 10)."""

    naive: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        """The output of every layer by name; the last are the logits."""
        momentum = (
            0.99 if "momentum" in self.naive else 0.9
        )  # Flax's default; what PyTorch calls 0.1
        padding = (
            "SAME" if "padding" in self.naive else 1
        )  # with stride 2, "SAME" pads 0 before and 1 after
        out = {}
        out["conv1"] = nn.Conv(8, (3, 3), padding=1, use_bias=False, name="conv1")(x)
        out["norm1"] = nn.BatchNorm(not train, momentum=momentum, name="norm1")(out["conv1"])
        out["relu1"] = nn.relu(out["norm1"])  # (B, 8, 8, 8)
        out["conv2"] = nn.Conv(16, (3, 3), 2, padding=padding, use_bias=False, name="conv2")(
            out["relu1"]
        )
        out["norm2"] = nn.BatchNorm(not train, momentum=momentum, name="norm2")(out["conv2"])
        out["relu2"] = nn.relu(out["norm2"])  # (B, 4, 4, 16)
        out["pool"] = x = nn.max_pool(out["relu2"], (2, 2), strides=(2, 2))  # (B, 2, 2, 16)
        if "flatten" not in self.naive:
            x = x.transpose(0, 3, 1, 2)  # the linear layer's weights expect channels first
        out["flatten"] = x.reshape(len(x), -1)  # (B, 64)
        out["linear"] = nn.Dense(10, name="linear")(out["flatten"])
        return out


def variables_of(start: Mapping[str, NDArray]) -> dict[str, Any]:
    """PyTorch's parameters as Linen's variables: [out, in, h, w] -> [h, w, in, out], [out, in] ->
    [in, out].
    """
    params: dict[str, Any] = {layer: {} for layer in ("conv1", "norm1", "conv2", "norm2", "linear")}
    for layer, found in params.items():
        weight = start[f"{layer}.weight"]
        if weight.ndim == 1:
            found["scale"] = weight
        else:
            found["kernel"] = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        if f"{layer}.bias" in start:
            found["bias"] = start[f"{layer}.bias"]
    statistics = {
        layer: {name: start[f"{layer}.running_{name}"] for name in ("mean", "var")}
        for layer in ("norm1", "norm2")
    }
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": statistics})


def train(recorder: Recorder, start: Mapping[str, NDArray], naive: Collection[str] = ()) -> float:
    """Train from the parameters of `start` and record every update; gives the held-out accuracy."""
    model = ConvNet(tuple(naive))
    optimizer = optax.sgd(0.05, momentum=0.9)
    variables = recorder.start(variables_of(start))
    opt_state = optimizer.init(variables["params"])

    @jax.jit
    def update(variables: Any, opt_state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_of(params: Any) -> Any:
            found = {"params": params, "batch_stats": variables["batch_stats"]}
            forward, moved = model.apply(found, x, train=True, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(forward["linear"], y).mean()
            return loss, (forward, moved["batch_stats"])

        (loss, (forward, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            variables["params"]
        )
        steps, opt_state = optimizer.update(gradients, opt_state, variables["params"])
        if "variance" not in naive:
            statistics = unbiased(
                variables["batch_stats"], statistics, {"norm1": 64 * len(x), "norm2": 16 * len(x)}
            )
        variables = {
            "params": optax.apply_updates(variables["params"], steps),
            "batch_stats": statistics,
        }
        return variables, opt_state, loss, gradients, forward

    x, y = jnp.asarray(start["x"]).transpose(0, 2, 3, 1), jnp.asarray(start["y"])
    for rows in start["rows"]:
        variables, opt_state, loss, gradients, forward = update(
            variables, opt_state, x[rows], y[rows]
        )
        recorder.update(
            batch={"x": x[rows], "y": y[rows]},
            forward=forward,
            loss=loss,
            gradients=gradients,
            lr=0.05,
            moments=opt_state,
            parameters=variables,
        )
    right = model.apply(variables, x[256:], train=False)["linear"].argmax(1) == y[256:]
    return float(right.mean())


def unbiased(before: Any, after: Any, counts: Mapping[str, int]) -> Any:
    """The running statistics with variances over n - 1, as PyTorch keeps them; n values a channel
    each.
    """
    return {
        layer: {
            "mean": after[layer]["mean"],
            "var": 0.9 * before[layer]["var"]
            + (after[layer]["var"] - 0.9 * before[layer]["var"]) * n / (n - 1),
        }
        for layer, n in counts.items()
    }


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
        accuracy = train(recorder, np.load("start.npz"), naive)
    print(f"{options.out}: {recorder.done} updates, held-out accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
