"""One sample through the model, layer by layer."""

from collections import OrderedDict
from functools import partial
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
    model.eval()  # type: ignore[no-untyped-call] # Flax gives it no types
    outputs = _outputs(loss, nnx.split(model), x_1D)
    return {name: np.asarray(values_1H)[0] for name, values_1H in outputs.items()}


@partial(jax.jit, static_argnames="loss")
def _outputs(loss: Loss, parts: Any, x_1D: jax.Array) -> OrderedDict[str, jax.Array]:
    outputs = nnx.merge(*parts).outputs(x_1D)
    *_, outputs_1K = outputs.values()
    outputs |= link(loss, outputs_1K)
    # jit would hand a dict back in the order of its keys
    return OrderedDict((name, values_1H.astype(outputs_1K.dtype)) for name, values_1H in outputs.items())
