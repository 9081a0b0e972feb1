"""The learning rate of an update, looked up in the one closed form that both frameworks are fed."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

__all__ = ["make_schedule"]


def make_schedule(table_T: NDArray[Any]) -> Callable[[int], float]:
    """Update, counted from 0 -> its learning rate; for `LambdaLR` over a base rate of 1.

    Past the last update the last rate holds: `LambdaLR.step` asks once more after it.
    """
    return lambda update: float(table_T[min(update, len(table_T) - 1)])
