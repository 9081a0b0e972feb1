"""Mean loss over the rows that count, and the sums that its metrics are made of."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lockstep.data_prep import IGNORED
from lockstep.recipe import BinaryCrossEntropy, CrossEntropy, Huber, Loss, SquaredError

__all__ = ["link", "mean_loss", "sums"]


def mean_loss(loss: Loss, outputs_BK: Array, y_B: Array, count: Array | int) -> Array:
    """Mean loss over the first `count` rows; the others are padding.

    Args:
        loss: its settings.
        outputs_BK: logits or, of a number, (B, 1).
        y_B: classes as int32, or numbers in the dtype of the outputs.
        count: how many rows count.
    """
    # a mask and not a slice: every batch of a scan has one shape
    counts_B = jnp.arange(len(y_B)) < count
    output_B = outputs_BK[:, 0]
    if isinstance(loss, CrossEntropy):
        # Optax knows no ignored label and takes -1 for the last class
        counts_B = counts_B & (y_B != IGNORED)
        y_B = jnp.maximum(y_B, 0)
        weights = loss.class_weights or (1.0,) * outputs_BK.shape[-1]
        weight_K = jnp.asarray(weights, outputs_BK.dtype)
        weight_B = jnp.where(counts_B, weight_K[y_B], 0.0)
        if loss.label_smoothing:
            labels_BK = jax.nn.one_hot(y_B, outputs_BK.shape[-1], dtype=outputs_BK.dtype)
            labels_BK = weight_K * optax.smooth_labels(labels_BK, loss.label_smoothing)
            loss_B = optax.softmax_cross_entropy(outputs_BK, labels_BK, axis=-1)
        else:
            # by number: with one-hot labels, a logit of -inf would be multiplied by 0
            loss_B = optax.softmax_cross_entropy_with_integer_labels(outputs_BK, y_B, axis=-1)
            loss_B = weight_B * loss_B if loss.class_weights else loss_B
        return jnp.sum(jnp.where(counts_B, loss_B, 0.0)) / jnp.sum(weight_B)
    if isinstance(loss, BinaryCrossEntropy):
        weight_B = jnp.where(y_B == 1, jnp.asarray(loss.positive_weight, output_B.dtype), 1.0)
        loss_B = weight_B * optax.sigmoid_binary_cross_entropy(output_B, y_B)
    elif isinstance(loss, Huber):
        loss_B = optax.huber_loss(output_B, y_B, delta=loss.delta)
    else:
        assert isinstance(loss, SquaredError)
        loss_B = optax.squared_error(output_B, y_B)
    return jnp.sum(jnp.where(counts_B, loss_B, 0.0)) / jnp.asarray(count, loss_B.dtype)


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
