"""The exponential moving average of the parameters."""

import numpy as np

from lockstep.oracle.arithmetic import Array, Exact
from lockstep.recipe import Average

__all__ = ["averaged", "start_average", "update_average"]

Parameters = dict[str, Array]


def start_average(average: Average, parameters: Parameters) -> Parameters:
    """The average before the first update; empty where none is kept."""
    if average.decay == 0:
        return {}
    if average.start == "zero":
        return {name: np.zeros_like(array) for name, array in parameters.items()}
    return dict(parameters)


def update_average(
    average: Average, before: Parameters, parameters: Parameters, arithmetic: Exact
) -> Parameters:
    """decay * before + (1 - decay) * parameters, with the parameters after the update."""
    decay = arithmetic.constant("average decay", average.decay)
    share = arithmetic.constant("1 - average decay", 1 - average.decay)
    return {
        name: arithmetic.round(decay * array + share * parameters[name])
        for name, array in before.items()
    }


def averaged(average: Average, moving: Parameters, updates: int, arithmetic: Exact) -> Parameters:
    """The average to read after that many updates: divided by 1 - decay^updates where the recipe
    debiases.
    """
    if not average.debias or updates == 0:
        return moving
    weight = 1 - average.decay**updates
    return {name: arithmetic.round(array / weight) for name, array in moving.items()}
