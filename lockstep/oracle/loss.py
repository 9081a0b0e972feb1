"""The losses, their slopes by the model's outputs, and the metrics over a set of rows, by hand.

The mean of a batch divides by the sum of its rows' weights. A label below 0 marks a row that does
not count: its weight and its loss are 0.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe import BinaryCrossEntropy, CrossEntropy, Huber, Loss, SquaredError

__all__ = [
    "RowLosses",
    "answers",
    "link",
    "loss_and_slope",
    "mean_loss",
    "metrics",
    "row_losses",
    "total_weight",
]

Targets = NDArray[Any]
"""Classes (B,) int64 from 0, -1 for a row that does not count; or numbers (B,) float64."""


class RowLosses(NamedTuple):
    """The loss of each row times its weight (..., B), its weight (..., B), and the slope of that
    loss by the outputs (..., B, K).
    """

    loss_B: Array
    weight_B: Array
    slope_BK: Array


def row_losses(loss: Loss, outputs_BK: Array, y_B: Targets, arithmetic: Exact) -> RowLosses:
    """The loss of each row, before the mean."""
    if isinstance(loss, CrossEntropy):
        return _cross_entropy(loss, outputs_BK, y_B, arithmetic)
    if isinstance(loss, BinaryCrossEntropy):
        loss_B1, slope_B1 = _binary_cross_entropy(loss, outputs_BK, y_B[:, None], arithmetic)
    elif isinstance(loss, Huber):
        loss_B1, slope_B1 = _huber(loss, arithmetic.round(outputs_BK - y_B[:, None]), arithmetic)
    else:
        assert isinstance(loss, SquaredError)
        loss_B1, slope_B1 = _squared(arithmetic.round(outputs_BK - y_B[:, None]), arithmetic)
    return RowLosses(loss_B1[..., 0], np.ones(len(y_B)), slope_B1)


def loss_and_slope(
    loss: Loss, outputs_BK: Array, y_B: Targets, arithmetic: Exact
) -> tuple[Array, Array]:
    """Mean loss over the rows (...), and its slope by the outputs (..., B, K)."""
    rows = row_losses(loss, outputs_BK, y_B, arithmetic)
    total = total_weight(loss, rows.weight_B, arithmetic)
    # the mean of no rows is 0 / 0, and its slope 0: torch 2.13 and JAX give both
    divisor = np.where(total == 0, 1.0, total)[..., None, None]
    return mean_loss(rows.loss_B, total, arithmetic), arithmetic.round(rows.slope_BK / divisor)


def total_weight(loss: Loss, weight_B: Array, arithmetic: Exact) -> Array:
    """What the mean divides by (...). Without class weights it is the number of rows that count,
    which is exact.
    """
    total = np.asarray(weight_B.sum(axis=-1))
    if not loss.class_weights:
        return total
    return arithmetic.round(total[..., None, None])[..., 0, 0]


def mean_loss(loss_B: Array, total: Array, arithmetic: Exact) -> Array:
    """The sum over the last axis, over the total weight (...). As a dot product with 1 / total it
    errs by the product of both 2-norms.
    """
    size = np.linalg.norm(loss_B, axis=-1) * np.sqrt(np.count_nonzero(loss_B, axis=-1)) / total
    mean = loss_B.sum(axis=-1) / total
    return arithmetic.near(mean[..., None, None], size[..., None, None])[..., 0, 0]


def link(loss: Loss, outputs_BK: Array, arithmetic: Exact) -> tuple[str, Array]:
    """The name of what turns the outputs into a prediction ("softmax", "sigmoid" or, for a number,
    ""), and the prediction (..., B, K).
    """
    if loss.spec.link == "softmax":
        return "softmax", _softmax(outputs_BK, arithmetic)[0]
    if loss.spec.link == "sigmoid":
        return "sigmoid", _sigmoid(outputs_BK, arithmetic)
    return "", outputs_BK


def answers(loss: Loss, outputs_BK: Array, y_B: Targets, arithmetic: Exact) -> dict[str, Array]:
    """The answers to the rows that count (..., B). Classes have "right" and "margin", how far the
    right answer leads; a number has "error".
    """
    if loss.predicts_number:
        return {"error": arithmetic.round(outputs_BK - y_B[:, None])[..., 0]}
    if loss.spec.link == "sigmoid":
        logit_B = outputs_BK[..., 0]
        return {
            "right": (logit_B > 0) == (y_B == 1),
            "margin": np.where(y_B == 1, logit_B, -logit_B),
        }
    counts_B = y_B >= 0
    logits_BK = outputs_BK[..., counts_B, :]
    y_B = y_B[counts_B]
    right_BK = _one_hot(y_B, logits_BK.shape[-1]) > 0
    right_B = np.where(right_BK, logits_BK, -np.inf).max(axis=-1)
    wrong_B = np.where(right_BK, -np.inf, logits_BK).max(axis=-1)
    return {
        # as both frameworks do: the first of equal logits, and a NaN counts as the largest
        "right": logits_BK.argmax(axis=-1) == y_B,
        "margin": right_B - wrong_B,
    }


def metrics(
    loss: Loss, answered: dict[str, Array], y_N: Targets, arithmetic: Exact
) -> dict[str, Array]:
    """The metrics (...) from the answers to all rows. Classes have "accuracy". A number has "r2",
    the share of the target's variance that is explained, and "mae", the mean absolute error.
    """
    if not loss.predicts_number:
        return {"accuracy": answered["right"].mean(axis=-1)}
    error_N = answered["error"]
    rows = np.array(float(len(y_N)))
    square_N = arithmetic.round(error_N[..., None] ** 2)[..., 0]
    residual = mean_loss(square_N, rows, arithmetic)[..., None, None]
    deviation_N1 = arithmetic.near((y_N - y_N.mean())[:, None], np.abs(y_N).max())
    square_N = arithmetic.round(deviation_N1**2)[..., 0]
    variance = mean_loss(square_N, rows, arithmetic)[..., None, None]
    unexplained = arithmetic.round(residual / variance)
    r2 = arithmetic.near(1 - unexplained, np.maximum(np.abs(unexplained), 1.0))[..., 0, 0]
    return {"r2": r2, "mae": mean_loss(np.abs(error_N), rows, arithmetic)}


def _one_hot(y_B: Targets, classes: int) -> Array:
    """(B, K); all 0 for a label below 0."""
    one_hot_BK = np.zeros((len(y_B), classes))
    counted = np.flatnonzero(y_B >= 0)
    one_hot_BK[counted, y_B[counted]] = 1
    return one_hot_BK


def _softmax(logits_BK: Array, arithmetic: Exact) -> tuple[Array, Array, Array, Array]:
    """Softmax (..., B, K), largest logit (..., B, 1), logits less that (..., B, K), and the log of
    the sum of their exponentials (..., B, 1).
    """
    largest_B1 = logits_BK.max(axis=-1, keepdims=True)
    shifted_BK = arithmetic.round(logits_BK - largest_B1)
    exp_BK = arithmetic.round(np.exp(shifted_BK))
    sum_B1 = arithmetic.round(exp_BK.sum(axis=-1, keepdims=True))
    return arithmetic.round(exp_BK / sum_B1), largest_B1, shifted_BK, np.log(sum_B1)


def _cross_entropy(
    loss: CrossEntropy, logits_BK: Array, y_B: Targets, arithmetic: Exact
) -> RowLosses:
    """-sum_k w_k q_k log softmax_k, by the shifted log-sum-exp; q is the label, smoothed over all K
    classes.

    A row with label y has weight w_y in the mean, also where the label is smoothed: torch 2.13,
    `torch.nn.functional.cross_entropy`.
    """
    softmax_BK, largest_B1, shifted_BK, log_sum_B1 = _softmax(logits_BK, arithmetic)
    classes = logits_BK.shape[-1]
    target_BK = _one_hot(y_B, classes)
    counts_B1 = (y_B >= 0)[:, None].astype(np.float64)
    if not loss.label_smoothing and not loss.class_weights:
        index_B1 = np.broadcast_to(np.maximum(y_B, 0)[:, None], (*shifted_BK.shape[:-1], 1))
        chosen_B1 = np.take_along_axis(shifted_BK, index_B1, axis=-1)
        # a framework may add the largest logit back before it subtracts the chosen one
        size_B1 = np.abs(largest_B1) + np.abs(chosen_B1)
        loss_B1 = arithmetic.near(log_sum_B1 - chosen_B1, size_B1) * counts_B1
        return RowLosses(loss_B1[..., 0], counts_B1[:, 0], softmax_BK * counts_B1 - target_BK)
    weight_1K = arithmetic.constant(
        "class_weights", np.array([loss.class_weights or (1.0,) * classes])
    )
    weight_B = (target_BK * weight_1K).sum(axis=-1)
    if loss.label_smoothing:
        sharp = arithmetic.constant("1 - label_smoothing", 1 - loss.label_smoothing)
        even = arithmetic.constant("label_smoothing / K", loss.label_smoothing / classes)
        target_BK = sharp * target_BK + even * counts_B1
    target_BK = arithmetic.round(target_BK * weight_1K)
    log_BK = arithmetic.near(shifted_BK - log_sum_B1, np.abs(largest_B1) + np.abs(shifted_BK))
    target_size_B1 = np.linalg.norm(target_BK, axis=-1, keepdims=True)
    size_B1 = target_size_B1 * np.linalg.norm(log_BK, axis=-1, keepdims=True)
    # a class whose target is 0 counts for nothing, also where its logit is -inf
    terms_BK = np.where(target_BK == 0, 0.0, target_BK * log_BK)
    loss_B1 = arithmetic.near(-terms_BK.sum(axis=-1, keepdims=True), size_B1)
    sum_B1 = arithmetic.round(target_BK.sum(axis=-1, keepdims=True))
    scaled_BK = softmax_BK * sum_B1
    slope_BK = arithmetic.near(scaled_BK - target_BK, np.maximum(scaled_BK, target_BK))
    return RowLosses(loss_B1[..., 0], weight_B, slope_BK)


def _sigmoid(logit_B1: Array, arithmetic: Exact) -> Array:
    small_B1 = arithmetic.round(np.exp(-np.abs(logit_B1)))
    return arithmetic.round(np.where(logit_B1 >= 0, 1.0, small_B1) / (1 + small_B1))


def _binary_cross_entropy(
    loss: BinaryCrossEntropy, logit_B1: Array, y_B1: Targets, arithmetic: Exact
) -> tuple[Array, Array]:
    """-positive_weight y log sigmoid(x) - (1 - y) log(1 - sigmoid(x)), and its slope by x.

    log(1 + exp(-x)) is computed as max(-x, 0) + log(1 + exp(-|x|)), with x where y is 1 and -x
    where it is 0.
    """
    positive = arithmetic.constant("positive_weight", loss.positive_weight)
    wrong_B1 = np.where(y_B1 == 1, -logit_B1, logit_B1)
    factor_B1 = np.where(y_B1 == 1, positive, 1.0)
    rest_B1 = arithmetic.round(np.log1p(arithmetic.round(np.exp(-np.abs(logit_B1)))))
    # a framework may subtract two numbers as large as the logit
    loss_B1 = arithmetic.near(np.maximum(wrong_B1, 0.0) + rest_B1, np.abs(logit_B1) + rest_B1)
    share_B1 = _sigmoid(wrong_B1, arithmetic)
    # where y is 1 a framework may compute it as 1 - sigmoid(x)
    near_B1 = arithmetic.near(share_B1, np.where(y_B1 == 1, 1.0, share_B1))
    slope_B1 = np.where(y_B1 == 1, -1.0, 1.0) * factor_B1 * near_B1
    return arithmetic.round(factor_B1 * loss_B1), arithmetic.round(slope_B1)


def _squared(error_B1: Array, arithmetic: Exact) -> tuple[Array, Array]:
    """e^2, not half of it, and its slope by e."""
    return arithmetic.round(error_B1**2), arithmetic.round(2 * error_B1)


def _huber(loss: Huber, error_B1: Array, arithmetic: Exact) -> tuple[Array, Array]:
    """e^2 / 2 up to delta, then delta (|e| - delta / 2) (Huber 1964); and its slope by e."""
    delta = arithmetic.constant("delta", loss.delta)
    size_B1 = np.abs(error_B1)
    square_B1 = arithmetic.round(np.square(np.minimum(size_B1, delta)) / 2)
    line_B1 = arithmetic.near(delta * (size_B1 - delta / 2), delta * size_B1)
    slope_B1 = arithmetic.round(np.clip(error_B1, -delta, delta))
    return np.where(size_B1 <= delta, square_B1, line_B1), slope_B1
