"""The multilayer perceptron, and its parameters in the canonical layout (in, out)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lockstep.data_prep import Parameters, PreparedData, initial_statistics, layer_sizes
from lockstep.recipe import Model, Recipe

from .activations import ACTIVATIONS
from .norm import make_norm

__all__ = ["ACTIVATIONS", "MLP", "build_model", "export_parameters", "import_parameters"]

FLAX_NAMES = {
    "linear": {"weight": "kernel", "bias": "bias"},
    "norm": {"weight": "scale", "bias": "bias", "mean": "mean", "var": "var"},
}


class MLP(nnx.Module):
    """linear1, normalisation, activation, dropout, linear2, ...: (B, D) -> logits (B, K)."""

    def __init__(
        self, layers: list[tuple[str, int, int]], model: Model, dtype: Any, compute: Any
    ) -> None:
        self.model, self.dtype, self.compute = model, dtype, compute
        for i, (name, inputs, outputs) in enumerate(layers, start=1):
            # zeros: the parameters come from data_prep
            zeros = nnx.initializers.zeros_init()
            layer = nnx.Linear(
                inputs,
                outputs,
                use_bias=model.bias,
                dtype=compute,
                param_dtype=dtype,
                precision=jax.lax.Precision.HIGHEST,
                kernel_init=zeros,
                bias_init=zeros,
                rngs=nnx.Rngs(0),
            )
            setattr(self, name, layer)
            if model.norm != "none" and i < len(layers):
                setattr(self, f"norm{i}", make_norm(model, outputs, dtype))

    def __call__(
        self, x_BD: jax.Array, masks: Sequence[jax.Array] = (), count: jax.Array | None = None
    ) -> jax.Array:
        """Logits (B, K); for `masks` and `count` see `outputs`."""
        *_, logits_BK = self.outputs(x_BD, masks, count).values()
        return logits_BK

    def outputs(
        self, x_BD: jax.Array, masks: Sequence[jax.Array] = (), count: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Layer -> its output, from "input" to the logits, in order.

        `masks`, in training with dropout: which units stay, (B, units) for each hidden layer. The
        rows after the
        first `count` are padding.
        """
        found = {"input": x_BD}
        for i in range(1, len(self.model.hidden) + 1):
            x_BD = found[f"linear{i}"] = getattr(self, f"linear{i}")(x_BD)
            if self.model.norm != "none":
                # only batch normalisation mixes rows
                counted = {"count": count} if self.model.norm == "batch" else {}
                normalised_BH = getattr(self, f"norm{i}")(x_BD.astype(self.dtype), **counted)
                x_BD = found[f"norm{i}"] = normalised_BH.astype(self.compute)
            x_BD = found[f"{self.model.activation}{i}"] = ACTIVATIONS[self.model.activation](x_BD)
            if len(masks):
                scaled_BH = x_BD * (1 / (1 - self.model.dropout))
                x_BD = found[f"dropout{i}"] = jnp.where(masks[i - 1], scaled_BH, 0.0)
        last = f"linear{len(self.model.hidden) + 1}"
        return found | {last: getattr(self, last)(x_BD).astype(self.dtype)}


def build_model(recipe: Recipe, data: PreparedData, device: jax.Device) -> MLP:
    """The recipe's model on a device, with the initial parameters of `data`."""
    layers = layer_sizes(len(data.columns), recipe.model.hidden, data.outputs)
    # shapes alone: nothing is drawn, compiled or computed only to be replaced
    compute = recipe.dtype if recipe.training.compute == "same" else np.dtype(jnp.bfloat16)
    model = nnx.eval_shape(lambda: MLP(layers, recipe.model, recipe.dtype, compute))
    statistics = {
        name: array.astype(recipe.dtype) for name, array in initial_statistics(recipe.model).items()
    }
    import_parameters(model, data.parameters | statistics)
    nnx.update(model, jax.device_put(nnx.state(model), device))
    return model


def import_parameters(model: MLP, parameters: Parameters) -> None:
    """Set the model's parameters, and running statistics where it has any, from canonical ones."""
    # both [in, out]
    for name, array in parameters.items():
        layer, _, kind = name.partition(".")
        getattr(getattr(model, layer), _flax_names(layer)[kind]).set_value(np.asarray(array))


def export_parameters(model: MLP | nnx.State[Any, Any]) -> Parameters:
    """The model's parameters, and running statistics where it has any, in canonical names and
    layout, in NumPy.
    """
    # both [in, out]
    state = nnx.to_pure_dict(model if isinstance(model, nnx.State) else nnx.state(model))
    return {
        f"{layer}.{kind}": np.asarray(state[layer][flax_name])
        for layer in sorted(state)
        for kind, flax_name in _flax_names(layer).items()
        if flax_name in state[layer]
    }


def _flax_names(layer: str) -> dict[str, str]:
    return FLAX_NAMES["norm" if layer.startswith("norm") else "linear"]
