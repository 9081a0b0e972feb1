"""The multilayer perceptron, and its parameters in the canonical layout (in, out)."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from lockstep.data_prep import Parameters, PreparedData, layer_sizes
from lockstep.recipe import Recipe

__all__ = ["ACTIVATIONS", "MLP", "build_model", "export_parameters", "import_parameters"]

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jax.numpy.tanh}
FLAX_NAMES = {"weight": "kernel", "bias": "bias"}


class MLP(nnx.Module):
    """linear1, activation, linear2, ...: (B, D) -> logits (B, K)."""

    def __init__(self, layers: list[tuple[str, int, int]], activation: str, dtype: Any) -> None:
        self.layers = tuple(name for name, _, _ in layers)
        self.activation = activation
        for name, inputs, outputs in layers:
            # zeros: the parameters come from data_prep
            zeros = nnx.initializers.zeros_init()
            layer = nnx.Linear(
                inputs,
                outputs,
                use_bias=True,
                dtype=dtype,
                param_dtype=dtype,
                precision=jax.lax.Precision.HIGHEST,
                kernel_init=zeros,
                bias_init=zeros,
                rngs=nnx.Rngs(0),
            )
            setattr(self, name, layer)

    def __call__(self, x_BD: jax.Array) -> jax.Array:
        """Logits (B, K)."""
        *_, logits_BK = self.outputs(x_BD).values()
        return logits_BK

    def outputs(self, x_BD: jax.Array) -> dict[str, jax.Array]:
        """Layer -> its output, from "input" to the logits, in order."""
        found = {"input": x_BD}
        for i, name in enumerate(self.layers, start=1):
            x_BD = found[name] = getattr(self, name)(x_BD)
            if i < len(self.layers):
                x_BD = found[f"{self.activation}{i}"] = ACTIVATIONS[self.activation](x_BD)
        return found


def build_model(recipe: Recipe, data: PreparedData, device: jax.Device) -> MLP:
    """The recipe's model on a device, with the initial parameters of `data`."""
    layers = layer_sizes(len(data.columns), recipe.model.hidden, data.outputs)
    # shapes alone: nothing is drawn, compiled or computed only to be replaced
    model = nnx.eval_shape(lambda: MLP(layers, recipe.model.activation, recipe.dtype))
    import_parameters(model, data.parameters)
    nnx.update(model, jax.device_put(nnx.state(model), device))
    return model


def import_parameters(model: MLP, parameters: Parameters) -> None:
    """Set the model's parameters from canonical ones."""
    # both [in, out]
    for name, array in parameters.items():
        layer, _, kind = name.partition(".")
        getattr(getattr(model, layer), FLAX_NAMES[kind]).set_value(np.asarray(array))


def export_parameters(model: MLP | nnx.State[Any, Any]) -> Parameters:
    """The model's parameters, in canonical names and layout, in NumPy."""
    # both [in, out]
    state = nnx.to_pure_dict(model if isinstance(model, nnx.State) else nnx.state(model))
    return {
        f"{layer}.{kind}": np.asarray(state[layer][flax_name])
        for layer in sorted(state)
        for kind, flax_name in FLAX_NAMES.items()
    }
