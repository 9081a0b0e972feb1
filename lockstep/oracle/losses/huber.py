"""Huber's loss."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.losses.parts import RowLosses, Targets, of_numbers
from lockstep.recipe import Huber

__all__ = ["row_losses"]


def row_losses(loss: Huber, outputs_BK: Array, y_B: Targets, arithmetic: Exact) -> RowLosses:
    """e^2 / 2 up to delta, then delta (|e| - delta / 2) (Huber 1964); and its slope by e."""
    error_B1 = arithmetic.round(outputs_BK - y_B[:, None])
    delta = arithmetic.constant("delta", loss.delta)
    size_B1 = np.abs(error_B1)
    square_B1 = arithmetic.round(np.square(np.minimum(size_B1, delta)) / 2)
    line_B1 = arithmetic.near(delta * (size_B1 - delta / 2), delta * size_B1)
    slope_B1 = arithmetic.round(np.clip(error_B1, -delta, delta))
    return of_numbers(np.where(size_B1 <= delta, square_B1, line_B1), slope_B1)
