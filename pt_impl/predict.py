"""What the trained model makes of rows: metrics over many, and one layer by layer."""

from typing import NamedTuple

import torch

from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Loss
from lockstep.records.trace import Metrics, metrics_of

from .loss import link, mean_loss, sums
from .model import MLP

__all__ = ["Rows", "evaluate", "load_rows", "trace_prediction"]


class Rows(NamedTuple):
    """All rows of a part of the data (N, D), and their labels (N,)."""

    x_ND: torch.Tensor
    y_N: torch.Tensor


def load_rows(data: PreparedData, device: torch.device) -> tuple[Rows, Rows]:
    """The training rows and those held out, on the device."""
    parts = (data.train_x_ND, data.train_y_N), (data.held_out_x_ND, data.held_out_y_N)
    train, held_out = (
        Rows(torch.from_numpy(x_ND).to(device), torch.from_numpy(y_N).to(device))
        for x_ND, y_N in parts
    )
    return train, held_out


@torch.no_grad()
def evaluate(loss: Loss, model: MLP, rows: Rows) -> Metrics:
    """Loss and other metrics over all rows."""
    model.eval()
    outputs_NK = model(rows.x_ND)
    model.train()
    return metrics_of(
        mean_loss(loss, outputs_NK, rows.y_N, len(rows.y_N)), sums(loss, outputs_NK, rows.y_N)
    )


@torch.no_grad()
def trace_prediction(loss: Loss, model: MLP, x_1D: torch.Tensor) -> Parameters:
    """Layer -> its output for the one row, from "input" to the last layer and, for classes,
    "softmax" or "sigmoid".
    """
    model.eval()
    outputs = model.outputs(x_1D)
    *_, outputs_1K = outputs.values()
    outputs |= link(loss, outputs_1K)
    return {
        name: values_1H[0].to(outputs_1K.dtype).cpu().numpy() for name, values_1H in outputs.items()
    }
