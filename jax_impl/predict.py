"""One sample through the model, layer by layer."""

import jax
import numpy as np

from jax_impl.model import MLP
from lockstep.data_prep import Parameters

__all__ = ["trace_prediction"]


def trace_prediction(model: MLP, x_1D: jax.Array) -> Parameters:
    """Layer -> its output for the one row, from "input" to "softmax", in NumPy."""
    outputs = model.outputs(x_1D)
    *_, logits_1K = outputs.values()
    outputs["softmax"] = jax.nn.softmax(logits_1K, axis=-1)
    return {name: np.asarray(values_1H[0]) for name, values_1H in outputs.items()}
