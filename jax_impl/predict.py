"""Predictions of the trained model: metrics over many rows, and one row layer by layer."""

from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import Array

from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Loss
from lockstep.records.trace import Metrics, metrics_of

from .io.device import narrow
from .loss import link, mean_loss, sums
from .model import MLP

__all__ = ["Rows", "evaluate", "load_rows", "trace_prediction"]


Parts = tuple[nnx.GraphDef[Any], nnx.State[Any, Any]]
"""A model as `nnx.split` returns it."""


class Rows(NamedTuple):
    """All rows of a part of the data, and their labels."""

    x_ND: Array
    y_N: Array


def load_rows(data: PreparedData, device: jax.Device) -> tuple[Rows, Rows]:
    """The training rows and those held out, on the device."""
    train = Rows(
        jax.device_put(data.train_x_ND, device), jax.device_put(narrow(data.train_y_N), device)
    )
    held_out = Rows(
        jax.device_put(data.held_out_x_ND, device),
        jax.device_put(narrow(data.held_out_y_N), device),
    )
    return train, held_out


def evaluate(loss: Loss, model: MLP, rows: Rows) -> Metrics:
    """Mean loss and other metrics over all rows."""
    return metrics_of(*_evaluate(loss, nnx.split(model), rows))


@partial(jax.jit, static_argnames="loss")
def _evaluate(loss: Loss, parts: Parts, rows: Rows) -> tuple[Array, dict[str, Array]]:
    model = nnx.merge(*parts)
    model.eval()
    outputs_NK = model(rows.x_ND)
    mean = mean_loss(loss, outputs_NK, rows.y_N, len(rows.y_N))
    return mean, sums(loss, outputs_NK, rows.y_N)


def trace_prediction(loss: Loss, model: MLP, x_1D: Array) -> Parameters:
    """Layer -> its output for the one row, from "input" to the logits and, of classes, `link`."""
    model.eval()  # type: ignore[no-untyped-call] # Flax gives it no types
    outputs = _outputs(loss, nnx.split(model), x_1D)
    return {name: np.asarray(h_1H)[0] for name, h_1H in outputs.items()}


@partial(jax.jit, static_argnames="loss")
def _outputs(loss: Loss, parts: Parts, x_1D: Array) -> OrderedDict[str, Array]:
    outputs = nnx.merge(*parts).outputs(x_1D)
    *_, outputs_1K = outputs.values()
    outputs |= link(loss, outputs_1K)
    dtype = outputs_1K.dtype
    # jit would return a dict in the order of its keys
    return OrderedDict((name, h_1H.astype(dtype)) for name, h_1H in outputs.items())
