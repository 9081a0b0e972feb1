"""One sample through the model, layer by layer."""

import torch

from lockstep.data_prep import Parameters
from pt_impl.model import MLP

__all__ = ["trace_prediction"]


@torch.no_grad()
def trace_prediction(model: MLP, x_1D: torch.Tensor) -> Parameters:
    """Layer -> its output for the one row, from "input" to "softmax", in NumPy."""
    outputs = model.outputs(x_1D)
    *_, logits_1K = outputs.values()
    outputs["softmax"] = torch.softmax(logits_1K, dim=-1)
    return {name: values_1H[0].cpu().numpy() for name, values_1H in outputs.items()}
