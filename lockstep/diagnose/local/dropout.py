"""The rate of a dropout, from its own input and output."""

import numpy as np

from lockstep.diagnose.local.layer_calls import LayerCall
from lockstep.diagnose.local.measurement import Measurement

__all__ = ["measure_dropout"]

STAYS = 4.0
"""Unit roundoffs that what is kept may be off from its multiple of the input."""
CHANCE = 6.0
"""Standard deviations that the share of zeros may be from the rate."""
FEWEST = 64
"""Elements that tell, at least."""


def measure_dropout(call: LayerCall, update: int) -> Measurement | None:
    """The rate p of a layer that sets a share p of its input to 0 and divides the rest by 1 - p; 0
    where it passes its input on, and None where it does neither.
    """
    if call.parameters or call.output.size < FEWEST:
        return None
    for x in call.same_shape().values():
        rate = _rate(x, call)
        if rate is not None:
            return Measurement("forward", call.name, update, "dropout", *rate)
    return None


def _rate(x: np.ndarray, call: LayerCall) -> tuple[float, float] | None:
    y = call.output
    if np.array_equal(x, y):
        return 0.0, 0.0
    is_counted = x != 0
    is_kept = is_counted & (y != 0)
    count = int(is_counted.sum())
    if not is_kept.any() or (y[~is_counted] != 0).any():
        return None
    times = float((x * y)[is_kept].sum() / np.square(x[is_kept]).sum())
    if times <= 1 or (np.abs(y - times * x) > STAYS * call.unit * np.abs(y))[is_kept].any():
        return None
    rate = 1 - 1 / times
    dropped = 1 - float(is_kept.sum()) / count
    if abs(dropped - rate) > CHANCE * np.sqrt(rate * (1 - rate) / count):
        return None
    return rate, call.unit / times
