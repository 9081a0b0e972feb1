"""The multilayer perceptron, and its parameters in the canonical layout (in, out)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor as Array
from torch import nn
from torch.nn import functional

from lockstep.data_prep import Parameters, PreparedData, initial_statistics, layer_sizes
from lockstep.recipe import Model, Recipe

from .activations import ACTIVATIONS
from .norm import make_norm

__all__ = ["ACTIVATIONS", "MLP", "build_model", "export_parameters", "import_parameters"]

STATISTICS = {"running_mean": "mean", "running_var": "var"}


class MLP(nn.Module):
    """linear1, normalisation, activation, dropout, linear2, ...: (B, D) -> logits (B, K)."""

    def __init__(
        self,
        layers: list[tuple[str, int, int]],
        model: Model,
        dtype: torch.dtype,
        compute: torch.dtype,
    ) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.compute = compute
        for i, (name, inputs, outputs) in enumerate(layers, start=1):
            layer = _Linear(inputs, outputs, bias=model.bias, dtype=dtype)
            layer.compute = compute
            setattr(self, name, layer)
            if model.norm != "none" and i < len(layers):
                setattr(self, f"norm{i}", make_norm(model, outputs, dtype))

    def forward(self, x_BD: Array, masks: Sequence[Array] = ()) -> Array:
        """Logits (B, K); the arguments are those of `outputs`."""
        *_, logits_BK = self.outputs(x_BD, masks).values()
        return logits_BK

    def outputs(self, x_BD: Array, masks: Sequence[Array] = ()) -> dict[str, Array]:
        """Layer -> its output, from "input" to the logits, in order.

        Args:
            x_BD: the rows.
            masks: which units stay, (B, H) for each hidden layer; empty without dropout.
        """
        outputs = {"input": x_BD}
        h_BH = x_BD
        for i in range(1, len(self.model.hidden) + 1):
            h_BH = outputs[f"linear{i}"] = getattr(self, f"linear{i}")(h_BH)
            if self.model.norm != "none":
                normalised_BH = getattr(self, f"norm{i}")(h_BH.to(self.dtype))
                h_BH = outputs[f"norm{i}"] = normalised_BH.to(self.compute)
            h_BH = outputs[f"{self.model.activation}{i}"] = ACTIVATIONS[self.model.activation](h_BH)
            if len(masks):
                scaled_BH = h_BH * (1 / (1 - self.model.dropout))
                h_BH = outputs[f"dropout{i}"] = torch.where(masks[i - 1], scaled_BH, 0.0)
        last = f"linear{len(self.model.hidden) + 1}"
        outputs[last] = getattr(self, last)(h_BH).to(self.dtype)
        return outputs


class _Linear(nn.Linear):
    """`nn.Linear` that computes in another dtype than its parameters', as `nnx.Linear` can.

    It draws parameters, which are replaced. `nn.utils.skip_init`, which draws none, loads SymPy and
    takes half a second.
    """

    compute: torch.dtype

    def forward(self, x_BD: Array) -> Array:
        if self.weight.dtype == self.compute:
            return super().forward(x_BD)
        bias = None if self.bias is None else self.bias.to(self.compute)
        return functional.linear(x_BD.to(self.compute), self.weight.to(self.compute), bias)


def build_model(recipe: Recipe, data: PreparedData, device: torch.device) -> MLP:
    """The recipe's model on a device, with the initial parameters of `data`."""
    layers = layer_sizes(len(data.columns), recipe.model.hidden, data.outputs)
    dtype = getattr(torch, recipe.training.dtype)
    compute = dtype if recipe.training.compute == "same" else torch.bfloat16
    model = MLP(layers, recipe.model, dtype, compute)
    initial = initial_statistics(recipe.model)
    statistics = {name: array.astype(recipe.dtype) for name, array in initial.items()}
    import_parameters(model, data.parameters | statistics)
    return model.to(device)


def import_parameters(model: MLP, parameters: Parameters) -> None:
    """Set the model's parameters, and running statistics if it has any, from canonical ones."""
    names = {_canonical_name(name): name for name in model.state_dict()}
    tensors = {}
    for name, array in parameters.items():
        # [in, out] -> [out, in]; a vector is its own transpose
        tensors[names[name]] = torch.tensor(np.ascontiguousarray(array.T))
    model.load_state_dict(tensors)


def export_parameters(model: MLP) -> Parameters:
    """The model's parameters, and running statistics if it has any, as canonical NumPy arrays."""
    parameters = {}
    for name, tensor in model.state_dict().items():
        # a counter, of no effect where the momentum is given
        if not name.endswith("num_batches_tracked"):
            # [out, in] -> [in, out]
            parameters[_canonical_name(name)] = tensor.detach().cpu().numpy().T
    return parameters


def _canonical_name(name: str) -> str:
    layer, _, kind = name.partition(".")
    return f"{layer}.{STATISTICS.get(kind, kind)}"
