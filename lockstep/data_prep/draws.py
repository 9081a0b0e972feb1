"""Random numbers of a recipe, in streams under one seed; layer sizes; initial parameters and
statistics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.initialise import draw_bias, draw_weight
from lockstep.recipe import Model, Recipe

__all__ = [
    "MASKS",
    "NOISE",
    "ORDER",
    "Parameters",
    "generator_of",
    "initial_parameters",
    "initial_statistics",
    "layer_sizes",
]

ORDER, PARAMETERS, MASKS, NOISE = 1, 2, 3, 11  # streams of random numbers under one seed

Parameters = dict[str, NDArray[Any]]


def generator_of(*key: int) -> np.random.Generator:
    """The generator of one stream: its seed, the stream, and its purpose."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def layer_sizes(inputs: int, hidden: Sequence[int], outputs: int) -> list[tuple[str, int, int]]:
    """Canonical name, number of inputs and number of outputs of every linear layer: ("linear1", 10,
    50), ("linear2", 50, 2)."""
    sizes = [inputs, *hidden, outputs]
    return [(f"linear{i}", sizes[i - 1], sizes[i]) for i in range(1, len(sizes))]


def initial_parameters(recipe: Recipe, inputs: int, outputs: int) -> Parameters:
    """Weights (in, out) and biases (out,), float64, as `lockstep.data_prep.initialise` draws them.
    A
    normalisation has weights 1 and biases 0."""
    generator, model = generator_of(recipe.training.seed, PARAMETERS), recipe.model
    parameters: Parameters = {}
    for i, (name, fan_in, fan_out) in enumerate(
        layer_sizes(inputs, model.hidden, outputs), start=1
    ):
        parameters[f"{name}.weight"] = draw_weight(model.init, generator, fan_in, fan_out)
        # drawn even where there is none, so that the weights are the same with and without
        bias = draw_bias(model.init, generator, fan_in, fan_out)
        if model.bias:
            parameters[f"{name}.bias"] = bias
        if model.norm != "none" and i <= len(model.hidden):
            parameters[f"norm{i}.weight"], parameters[f"norm{i}.bias"] = (
                np.ones(fan_out),
                np.zeros(fan_out),
            )
    return parameters


def initial_statistics(model: Model) -> Parameters:
    """Batch normalisation's running statistics before training: mean 0 and variance 1, (units,)
    float64.
    """
    statistics: Parameters = {}
    for i, units in enumerate(model.hidden if model.norm == "batch" else (), start=1):
        statistics[f"norm{i}.mean"], statistics[f"norm{i}.var"] = np.zeros(units), np.ones(units)
    return statistics
