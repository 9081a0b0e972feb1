"""The multilayer perceptron, and its parameters in the canonical layout (in, out)."""

from collections.abc import Sequence

import numpy as np
import torch
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
        self.model, self.dtype, self.compute = model, dtype, compute
        for i, (name, inputs, outputs) in enumerate(layers, start=1):
            # its own draws are overwritten; nn.utils.skip_init, which makes none, loads SymPy, for
            # half a second
            layer = nn.Linear(inputs, outputs, bias=model.bias, dtype=dtype)
            setattr(self, name, layer)
            if model.norm != "none" and i < len(layers):
                setattr(self, f"norm{i}", make_norm(model, outputs, dtype))

    def forward(self, x_BD: torch.Tensor, masks: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Logits (B, K); for `masks` see `outputs`."""
        *_, logits_BK = self.outputs(x_BD, masks).values()
        return logits_BK

    def outputs(
        self, x_BD: torch.Tensor, masks: Sequence[torch.Tensor] = ()
    ) -> dict[str, torch.Tensor]:
        """Layer -> its output, from "input" to the logits, in order.

        `masks`, in training with dropout: which units stay, (B, units) for each hidden layer.
        """
        found = {"input": x_BD}
        for i in range(1, len(self.model.hidden) + 1):
            x_BD = found[f"linear{i}"] = _linear(getattr(self, f"linear{i}"), x_BD, self.compute)
            if self.model.norm != "none":
                x_BD = found[f"norm{i}"] = getattr(self, f"norm{i}")(x_BD.to(self.dtype)).to(
                    self.compute
                )
            x_BD = found[f"{self.model.activation}{i}"] = ACTIVATIONS[self.model.activation](x_BD)
            if len(masks):
                scaled_BH = x_BD * (1 / (1 - self.model.dropout))
                x_BD = found[f"dropout{i}"] = torch.where(masks[i - 1], scaled_BH, 0.0)
        last = f"linear{len(self.model.hidden) + 1}"
        return found | {last: _linear(getattr(self, last), x_BD, self.compute).to(self.dtype)}


def _linear(layer: nn.Linear, x_BD: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
    """The layer in another precision than its parameters': what `nnx.Linear` does by its
    `dtype`.
    """
    if layer.weight.dtype == compute:
        found: torch.Tensor = layer(x_BD)
        return found
    bias = None if layer.bias is None else layer.bias.to(compute)
    return functional.linear(x_BD.to(compute), layer.weight.to(compute), bias)


def build_model(recipe: Recipe, data: PreparedData, device: torch.device) -> MLP:
    """The recipe's model on a device, with the initial parameters of `data`."""
    layers = layer_sizes(len(data.columns), recipe.model.hidden, data.outputs)
    dtype = getattr(torch, recipe.training.dtype)
    compute = dtype if recipe.training.compute == "same" else torch.bfloat16
    model = MLP(layers, recipe.model, dtype, compute)
    statistics = {
        name: array.astype(recipe.dtype) for name, array in initial_statistics(recipe.model).items()
    }
    import_parameters(model, data.parameters | statistics)
    return model.to(device)


def import_parameters(model: MLP, parameters: Parameters) -> None:
    """Set the model's parameters, and running statistics where it has any, from canonical ones."""
    names = {_canonical_name(name): name for name in model.state_dict()}
    # [in, out] -> [out, in]; a vector is its own transpose
    found = {
        names[name]: torch.tensor(np.ascontiguousarray(array.T))
        for name, array in parameters.items()
    }
    model.load_state_dict(found)


def export_parameters(model: MLP) -> Parameters:
    """The model's parameters, and running statistics where it has any, in canonical names and
    layout, in NumPy.
    """
    # [out, in] -> [in, out]
    return {
        _canonical_name(name): tensor.detach().cpu().numpy().T
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")  # of no effect where the momentum is given
    }


def _canonical_name(name: str) -> str:
    layer, _, kind = name.partition(".")
    return f"{layer}.{STATISTICS.get(kind, kind)}"
