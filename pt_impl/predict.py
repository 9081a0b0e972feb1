"""Predictions of the trained model: metrics over many rows, and one row layer by layer."""

from typing import NamedTuple

import torch
from torch import Tensor as Array

from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Loss
from lockstep.records.trace import Metrics, metrics_of

from .loss import link, mean_loss, sums
from .model import MLP

__all__ = ["Rows", "evaluate", "load_rows", "trace_prediction"]


class Rows(NamedTuple):
    """All rows of a part of the data, and their labels."""

    x_ND: Array
    y_N: Array


def load_rows(data: PreparedData, device: torch.device) -> tuple[Rows, Rows]:
    """The training rows and those held out, on the device."""
    train = Rows(
        torch.from_numpy(data.train_x_ND).to(device), torch.from_numpy(data.train_y_N).to(device)
    )
    held_out = Rows(
        torch.from_numpy(data.held_out_x_ND).to(device),
        torch.from_numpy(data.held_out_y_N).to(device),
    )
    return train, held_out


@torch.no_grad()
def evaluate(loss: Loss, model: MLP, rows: Rows) -> Metrics:
    """Mean loss and other metrics over all rows."""
    model.eval()
    outputs_NK = model(rows.x_ND)
    model.train()
    mean = mean_loss(loss, outputs_NK, rows.y_N, len(rows.y_N))
    return metrics_of(mean, sums(loss, outputs_NK, rows.y_N))


@torch.no_grad()
def trace_prediction(loss: Loss, model: MLP, x_1D: Array) -> Parameters:
    """Layer -> its output for the one row, from "input" to the logits and, of classes, `link`."""
    model.eval()
    outputs = model.outputs(x_1D)
    *_, outputs_1K = outputs.values()
    outputs |= link(loss, outputs_1K)
    dtype = outputs_1K.dtype
    return {name: h_1H[0].to(dtype).cpu().numpy() for name, h_1H in outputs.items()}
