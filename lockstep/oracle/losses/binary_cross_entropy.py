"""The cross entropy of 2 classes by one logit."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.losses.parts import RowLosses, Targets, of_numbers, sigmoid
from lockstep.recipe import BinaryCrossEntropy

__all__ = ["row_losses"]


def row_losses(
    loss: BinaryCrossEntropy, outputs_BK: Array, y_B: Targets, arithmetic: Exact
) -> RowLosses:
    """-positive_weight y log sigmoid(x) - (1 - y) log(1 - sigmoid(x)), and its slope by x.

    log(1 + exp(-x)) is computed as max(-x, 0) + log(1 + exp(-|x|)), with x where y is 1 and -x
    where it is 0.
    """
    logit_B1, y_B1 = outputs_BK, y_B[:, None]
    positive = arithmetic.constant("positive_weight", loss.positive_weight)
    wrong_B1 = np.where(y_B1 == 1, -logit_B1, logit_B1)
    factor_B1 = np.where(y_B1 == 1, positive, 1.0)
    rest_B1 = arithmetic.round(np.log1p(arithmetic.round(np.exp(-np.abs(logit_B1)))))
    # a framework may subtract two numbers as large as the logit
    loss_B1 = arithmetic.near(np.maximum(wrong_B1, 0.0) + rest_B1, np.abs(logit_B1) + rest_B1)
    share_B1 = sigmoid(wrong_B1, arithmetic)
    # where y is 1 a framework may compute it as 1 - sigmoid(x)
    near_B1 = arithmetic.near(share_B1, np.where(y_B1 == 1, 1.0, share_B1))
    slope_B1 = np.where(y_B1 == 1, -1.0, 1.0) * factor_B1 * near_B1
    return of_numbers(arithmetic.round(factor_B1 * loss_B1), arithmetic.round(slope_B1))
