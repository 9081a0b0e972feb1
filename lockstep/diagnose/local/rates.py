"""One factor between the learning rates of two loops, or one update."""

import numpy as np

from lockstep.diagnose.local.difference import LocalDifference
from lockstep.diagnose.local.measurement import Measurement
from lockstep.diagnose.units import unit_of_rate
from lockstep.numbers import factor
from lockstep.oracle.arithmetic import SAFETY
from lockstep.records.trace import Trace

__all__ = ["other_rate", "shifted_rate"]

RATE = "updates/lr"
FEWEST = 3
"""Updates that must agree with their neighbours, at least."""
PAGES = {"late": "scheduler-state-forgotten", "early": "last-lr-is-the-next-lr"}


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


def shifted_rate(a: Trace, b: Trace) -> LocalDifference | None:
    """That b's learning rate is a's of the update before or after, at every update that both have;
    None where it is not, or where the rates are constant.
    """
    if RATE not in a.arrays or RATE not in b.arrays or len(a.arrays[RATE]) < FEWEST:
        return None
    rate_a_T = a.arrays[RATE].astype(np.float64)
    rate_b_T = b.arrays[RATE].astype(np.float64)
    width = SAFETY * (unit_of_rate(a, RATE) + unit_of_rate(b, RATE))
    width *= float(np.abs(rate_a_T).max(initial=0.0))
    if not np.isfinite(rate_a_T).all() or np.abs(rate_b_T - rate_a_T).max() <= width:
        return None
    pairs = {"late": (rate_b_T[1:], rate_a_T[:-1]), "early": (rate_b_T[:-1], rate_a_T[1:])}
    for word, (mine_T, other_T) in pairs.items():
        if np.abs(mine_T - other_T).max() <= width and np.ptp(other_T) > width:
            update = int((np.abs(rate_b_T - rate_a_T) > width).argmax())
            values = [
                Measurement("lr", "lr", update, "learning rate", float(rate_T[update]), 0.0)
                for rate_T in (rate_a_T, rate_b_T)
            ]
            text = f"b's learning rate comes one update {word}: it is a's of the update "
            text += "before" if word == "late" else "after"
            return LocalDifference(values[0], values[1], f"lr-one-{word}", text, PAGES[word])
    return None
