"""Mean loss over the rows that count, and the sums that its metrics are made of."""

import jax
import jax.numpy as jnp
from jax import Array

from lockstep.data_prep import IGNORED
from lockstep.recipe import Loss

from .losses import LOSSES

__all__ = ["link", "mean_loss", "sums"]


def mean_loss(loss: Loss, outputs_BK: Array, y_B: Array, count: Array | int) -> Array:
    """Mean loss over the first `count` rows; the others are padding.

    Args:
        loss: its settings.
        outputs_BK: logits or, of a number, (B, 1).
        y_B: classes as int32, or numbers in the dtype of the outputs.
        count: how many rows count.
    """
    return LOSSES[loss.name](loss, outputs_BK, y_B, count)


def sums(loss: Loss, outputs_NK: Array, y_N: Array) -> dict[str, Array]:
    """Sums over all rows, for `lockstep.records.trace.metrics_of`.

    A class is right where its logit is the largest; of two classes, where it is above 0.
    """
    if loss.predicts_number:
        error_N = outputs_NK[:, 0] - y_N
        deviation_N = y_N - y_N.mean()
        terms = {
            "squares": jnp.square(error_N),
            "absolute": jnp.abs(error_N),
            "variation": jnp.square(deviation_N),
        }
    elif loss.spec.link == "sigmoid":
        terms = {"right": (outputs_NK[:, 0] > 0) == (y_N == 1)}
    else:
        terms = {"right": outputs_NK.argmax(axis=-1) == y_N}
    terms["rows"] = jnp.ones_like(y_N) if loss.predicts_number else y_N != IGNORED
    return {name: values_N.sum() for name, values_N in terms.items()}


def link(loss: Loss, outputs_NK: Array) -> dict[str, Array]:
    """The prediction (N, K) by the name of what makes it of the outputs; empty for a number."""
    if loss.spec.link == "softmax":
        return {"softmax": jax.nn.softmax(outputs_NK, axis=-1)}
    return {"sigmoid": jax.nn.sigmoid(outputs_NK)} if loss.spec.link == "sigmoid" else {}
