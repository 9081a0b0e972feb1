"""What the trained model makes of rows: metrics over many, and one layer by layer."""

from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Loss
from lockstep.records.trace import Metrics, metrics_of

from .io.device import narrow
from .loss import link, mean_loss, sums
from .model import MLP

__all__ = ["Rows", "evaluate", "load_rows", "trace_prediction"]


class Rows(NamedTuple):
    """All rows of a part of the data (N, D), and their labels (N,)."""

    x_ND: jax.Array
    y_N: jax.Array


def load_rows(data: PreparedData, device: jax.Device) -> tuple[Rows, Rows]:
    """The training rows and those held out, on the device."""
    parts = (data.train_x_ND, data.train_y_N), (data.held_out_x_ND, data.held_out_y_N)
    train, held_out = (
        Rows(jax.device_put(x_ND, device), jax.device_put(narrow(y_N), device))
        for x_ND, y_N in parts
    )
    return train, held_out


def evaluate(loss: Loss, model: MLP, rows: Rows) -> Metrics:
    """Loss and other metrics over all rows."""
    return metrics_of(*_evaluate(loss, nnx.split(model), rows))


@partial(jax.jit, static_argnames="loss")
def _evaluate(loss: Loss, parts: Any, rows: Rows) -> tuple[jax.Array, dict[str, jax.Array]]:
    model = nnx.merge(*parts)
    model.eval()
    outputs_NK = model(rows.x_ND)
    return mean_loss(loss, outputs_NK, rows.y_N, len(rows.y_N)), sums(loss, outputs_NK, rows.y_N)


def trace_prediction(loss: Loss, model: MLP, x_1D: jax.Array) -> Parameters:
    """Layer -> its output for the one row, from "input" to the last layer and, for classes,
    "softmax" or "sigmoid".
    """
    model.eval()  # type: ignore[no-untyped-call] # Flax gives it no types
    outputs = _outputs(loss, nnx.split(model), x_1D)
    return {name: np.asarray(values_1H)[0] for name, values_1H in outputs.items()}


@partial(jax.jit, static_argnames="loss")
def _outputs(loss: Loss, parts: Any, x_1D: jax.Array) -> OrderedDict[str, jax.Array]:
    outputs = nnx.merge(*parts).outputs(x_1D)
    *_, outputs_1K = outputs.values()
    outputs |= link(loss, outputs_1K)
    # jit would hand a dict back in the order of its keys
    return OrderedDict(
        (name, values_1H.astype(outputs_1K.dtype)) for name, values_1H in outputs.items()
    )
