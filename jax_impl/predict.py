"""One sample through the model, layer by layer."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from jax_impl.loss import link
from jax_impl.model import MLP
from lockstep.data_prep import Parameters
from lockstep.recipe import Loss

__all__ = ["trace_prediction"]


def trace_prediction(loss: Loss, model: MLP, x_1D: jax.Array) -> Parameters:
    """Layer -> its output for the one row, from "input" to the last layer and, for classes, "softmax" or "sigmoid"."""
    model.eval()  # type: ignore[no-untyped-call]
    names: list[str] = []

    # a list and the names apart: jit would hand a dict back in the order of its keys
    @jax.jit
    def outputs_of(parameters: nnx.State[Any, Any]) -> list[jax.Array]:
        outputs = nnx.merge(graph, parameters).outputs(x_1D)
        *_, outputs_1K = outputs.values()
        outputs |= link(loss, outputs_1K)
        names.extend(outputs)
        return [values_1H.astype(outputs_1K.dtype) for values_1H in outputs.values()]

    graph, parameters = nnx.split(model)
    values = outputs_of(parameters)
    return {name: np.asarray(values_1H)[0] for name, values_1H in zip(names, values)}
