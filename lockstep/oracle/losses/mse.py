"""The squared error."""

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.losses.parts import RowLosses, Targets, of_numbers
from lockstep.recipe import SquaredError

__all__ = ["row_losses"]


def row_losses(loss: SquaredError, outputs_BK: Array, y_B: Targets, arithmetic: Exact) -> RowLosses:
    """e^2, not half of it, and its slope by e."""
    error_B1 = arithmetic.round(outputs_BK - y_B[:, None])
    return of_numbers(arithmetic.round(error_B1**2), arithmetic.round(2 * error_B1))
