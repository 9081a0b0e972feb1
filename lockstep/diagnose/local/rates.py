"""One factor between the learning rates of two loops."""

import numpy as np

from lockstep.diagnose.local.difference import LocalDifference
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.units import unit_of_rate
from lockstep.numbers import factor
from lockstep.oracle.arithmetic import SAFETY
from lockstep.records.trace import Trace

__all__ = ["other_rate"]

RATE = "updates/lr"


def other_rate(a: Trace, b: Trace) -> LocalDifference | None:
    """That b's learning rate is so many times a's at every update; None where no one factor is.

    Where a rate is 0 both must be. At least two updates with other rates, or all, must agree.
    """
    if RATE not in a.arrays or RATE not in b.arrays:
        return None
    rate_a_T = a.arrays[RATE].astype(np.float64)
    rate_b_T = b.arrays[RATE].astype(np.float64)
    is_set = rate_a_T != 0
    if not is_set.any() or rate_b_T[~is_set].any() or not np.isfinite(rate_a_T).all():
        return None
    times_T = rate_b_T[is_set] / rate_a_T[is_set]
    times = float(np.median(times_T))
    width = SAFETY * (unit_of_rate(a, RATE) + unit_of_rate(b, RATE))
    if not np.isfinite(times) or (np.abs(times_T - times) > width * abs(times)).any():
        return None
    if abs(times - 1) <= width:
        return None
    update = int(is_set.argmax())
    text = f"b's learning rate is {factor(times)} times a's at every update"
    return LocalDifference(
        Measurement("lr", "lr", update, "learning rate", float(rate_a_T[update]), 0.0),
        Measurement("lr", "lr", update, "learning rate", float(rate_b_T[update]), 0.0),
        "lr-factor",
        text,
        "",
    )
