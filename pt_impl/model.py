"""The multilayer perceptron, and its parameters in the canonical layout (in, out)."""

import numpy as np
import torch
from torch import nn

from lockstep.data_prep import Parameters, PreparedData, layer_sizes
from lockstep.recipe import Recipe

__all__ = ["ACTIVATIONS", "MLP", "build_model", "export_parameters", "import_parameters"]

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


class MLP(nn.Module):
    """linear1, activation, linear2, ...: (B, D) -> logits (B, K)."""

    def __init__(self, layers: list[tuple[str, int, int]], activation: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = [name for name, _, _ in layers]
        self.activation = activation
        for name, inputs, outputs in layers:
            # skip_init: the parameters come from data_prep
            layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=True, dtype=dtype)
            setattr(self, name, layer)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        *_, logits_BK = self.outputs(x_BD).values()
        return logits_BK

    def outputs(self, x_BD: torch.Tensor) -> dict[str, torch.Tensor]:
        """Layer -> its output, from "input" to the logits, in order."""
        found = {"input": x_BD}
        for i, name in enumerate(self.layers, start=1):
            x_BD = found[name] = getattr(self, name)(x_BD)
            if i < len(self.layers):
                x_BD = found[f"{self.activation}{i}"] = ACTIVATIONS[self.activation](x_BD)
        return found


def build_model(recipe: Recipe, data: PreparedData, device: torch.device) -> MLP:
    """The recipe's model on a device, with the initial parameters of `data`."""
    layers = layer_sizes(len(data.columns), recipe.model.hidden, data.outputs)
    model = MLP(layers, recipe.model.activation, getattr(torch, recipe.training.dtype))
    import_parameters(model, data.parameters)
    return model.to(device)


def import_parameters(model: MLP, parameters: Parameters) -> None:
    """Set the model's parameters from canonical ones."""
    # [in, out] -> [out, in]; a bias is its own transpose
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(array.T)) for name, array in parameters.items()})


def export_parameters(model: MLP) -> Parameters:
    """The model's parameters, in canonical names and layout, in NumPy."""
    # [out, in] -> [in, out]
    return {name: tensor.detach().cpu().numpy().T for name, tensor in model.named_parameters()}
