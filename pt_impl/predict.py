"""One sample through the model, layer by layer."""

import torch

from lockstep.data_prep import Parameters
from lockstep.recipe import Loss
from pt_impl.loss import link
from pt_impl.model import MLP

__all__ = ["trace_prediction"]


@torch.no_grad()
def trace_prediction(loss: Loss, model: MLP, x_1D: torch.Tensor) -> Parameters:
    """Layer -> its output for the one row, from "input" to the last layer and, for classes, "softmax" or "sigmoid"."""
    model.eval()
    outputs = model.outputs(x_1D)
    *_, outputs_1K = outputs.values()
    outputs |= link(loss, outputs_1K)
    return {name: values_1H[0].to(outputs_1K.dtype).cpu().numpy() for name, values_1H in outputs.items()}
