"""What several losses share."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.oracle.arithmetic import Array, Exact

__all__ = ["RowLosses", "Targets", "of_numbers", "one_hot", "sigmoid", "softmax"]

Targets = NDArray[Any]
"""Classes (B,) int64 from 0, -1 for a row that does not count; or numbers (B,) float64."""


class RowLosses(NamedTuple):
    """The loss of each row times its weight (..., B), its weight (..., B), and the slope of that
    loss by the outputs (..., B, K).
    """

    loss_B: Array
    weight_B: Array
    slope_BK: Array


def of_numbers(loss_B1: Array, slope_B1: Array) -> RowLosses:
    """The rows of a loss by one output (..., B, 1), each of weight 1."""
    return RowLosses(loss_B1[..., 0], np.ones(loss_B1.shape[-2]), slope_B1)


def one_hot(y_B: Targets, classes: int) -> Array:
    """(B, K); all 0 for a label below 0."""
    one_hot_BK = np.zeros((len(y_B), classes))
    counted = np.flatnonzero(y_B >= 0)
    one_hot_BK[counted, y_B[counted]] = 1
    return one_hot_BK


def softmax(logits_BK: Array, arithmetic: Exact) -> tuple[Array, Array, Array, Array]:
    """Softmax (..., B, K), largest logit (..., B, 1), logits less that (..., B, K), and the log of
    the sum of their exponentials (..., B, 1).
    """
    largest_B1 = logits_BK.max(axis=-1, keepdims=True)
    shifted_BK = arithmetic.round(logits_BK - largest_B1)
    exp_BK = arithmetic.round(np.exp(shifted_BK))
    sum_B1 = arithmetic.round(exp_BK.sum(axis=-1, keepdims=True))
    return arithmetic.round(exp_BK / sum_B1), largest_B1, shifted_BK, np.log(sum_B1)


def sigmoid(logit_B1: Array, arithmetic: Exact) -> Array:
    """1 / (1 + exp(-x))."""
    small_B1 = arithmetic.round(np.exp(-np.abs(logit_B1)))
    return arithmetic.round(np.where(logit_B1 >= 0, 1.0, small_B1) / (1 + small_B1))
