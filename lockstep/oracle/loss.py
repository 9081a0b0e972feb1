"""The losses, their slopes by the model's outputs, and the metrics over a set of rows, by hand.

The mean of a batch divides by the sum of its rows' weights. A label below 0 marks a row that does
not count: its weight and its loss are 0.
"""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.losses import MODULES
from lockstep.oracle.losses.parts import RowLosses, Targets, one_hot, sigmoid, softmax
from lockstep.recipe import Loss

__all__ = [
    "RowLosses",
    "Targets",
    "answers",
    "link",
    "loss_and_slope",
    "mean_loss",
    "metrics",
    "row_losses",
    "total_weight",
]


def row_losses(loss: Loss, outputs_BK: Array, y_B: Targets, arithmetic: Exact) -> RowLosses:
    """The loss of each row, before the mean."""
    rows: RowLosses = MODULES[loss.name].row_losses(loss, outputs_BK, y_B, arithmetic)
    return rows


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
        return "softmax", softmax(outputs_BK, arithmetic)[0]
    if loss.spec.link == "sigmoid":
        return "sigmoid", sigmoid(outputs_BK, arithmetic)
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
    right_BK = one_hot(y_B, logits_BK.shape[-1]) > 0
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
