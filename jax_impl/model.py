"""The multilayer perceptron, and its parameters in the canonical layout (in, out)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

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
        self,
        layers: list[tuple[str, int, int]],
        model: Model,
        dtype: DTypeLike,
        compute: DTypeLike,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.compute = compute
        for i, (name, inputs, outputs) in enumerate(layers, start=1):
            layer = nnx.Linear(
                inputs,
                outputs,
                use_bias=model.bias,
                dtype=compute,
                param_dtype=dtype,
                precision=jax.lax.Precision.HIGHEST,
                kernel_init=nnx.initializers.zeros_init(),  # the parameters come from data_prep
                bias_init=nnx.initializers.zeros_init(),
                rngs=nnx.Rngs(0),
            )
            setattr(self, name, layer)
            if model.norm != "none" and i < len(layers):
                setattr(self, f"norm{i}", make_norm(model, outputs, dtype))

    def __call__(
        self, x_BD: Array, masks: Sequence[Array] = (), count: Array | None = None
    ) -> Array:
        """Logits (B, K); the arguments are those of `outputs`."""
        *_, logits_BK = self.outputs(x_BD, masks, count).values()
        return logits_BK

    def outputs(
        self, x_BD: Array, masks: Sequence[Array] = (), count: Array | None = None
    ) -> dict[str, Array]:
        """Layer -> its output, from "input" to the logits, in order.

        Args:
            x_BD: the rows.
            masks: which units stay, (B, H) for each hidden layer; empty without dropout.
            count: how many rows count; the rows after them are padding. None: all.
        """
        outputs = {"input": x_BD}
        h_BH = x_BD
        for i in range(1, len(self.model.hidden) + 1):
            h_BH = outputs[f"linear{i}"] = getattr(self, f"linear{i}")(h_BH)
            if self.model.norm != "none":
                # only batch normalisation mixes rows
                counted = {"count": count} if self.model.norm == "batch" else {}
                normalised_BH = getattr(self, f"norm{i}")(h_BH.astype(self.dtype), **counted)
                h_BH = outputs[f"norm{i}"] = normalised_BH.astype(self.compute)
            h_BH = outputs[f"{self.model.activation}{i}"] = ACTIVATIONS[self.model.activation](h_BH)
            if len(masks):
                scaled_BH = h_BH * (1 / (1 - self.model.dropout))
                h_BH = outputs[f"dropout{i}"] = jnp.where(masks[i - 1], scaled_BH, 0.0)
        last = f"linear{len(self.model.hidden) + 1}"
        outputs[last] = getattr(self, last)(h_BH).astype(self.dtype)
        return outputs


def build_model(recipe: Recipe, data: PreparedData, device: jax.Device) -> MLP:
    """The recipe's model on a device, with the initial parameters of `data`."""
    layers = layer_sizes(len(data.columns), recipe.model.hidden, data.outputs)
    dtype = recipe.dtype
    compute = dtype if recipe.training.compute == "same" else np.dtype(jnp.bfloat16)
    # shapes alone: nothing is drawn, compiled or computed only to be replaced
    model = nnx.eval_shape(lambda: MLP(layers, recipe.model, dtype, compute))
    initial = initial_statistics(recipe.model)
    statistics = {name: array.astype(recipe.dtype) for name, array in initial.items()}
    import_parameters(model, data.parameters | statistics)
    nnx.update(model, jax.device_put(nnx.state(model), device))
    return model


def import_parameters(model: MLP, parameters: Parameters) -> None:
    """Set the model's parameters, and running statistics if it has any, from canonical ones."""
    for name, array in parameters.items():
        # both [in, out]
        layer, _, kind = name.partition(".")
        variable = getattr(getattr(model, layer), _flax_names(layer)[kind])
        variable.set_value(np.asarray(array))


def export_parameters(model: MLP | nnx.State[Any, Any]) -> Parameters:
    """The model's parameters, and running statistics if it has any, as canonical NumPy arrays."""
    tree = nnx.to_pure_dict(model if isinstance(model, nnx.State) else nnx.state(model))
    parameters = {}
    for layer in sorted(tree):
        for kind, flax_name in _flax_names(layer).items():
            if flax_name in tree[layer]:
                # both [in, out]
                parameters[f"{layer}.{kind}"] = np.asarray(tree[layer][flax_name])
    return parameters


def _flax_names(layer: str) -> dict[str, str]:
    return FLAX_NAMES["norm" if layer.startswith("norm") else "linear"]
