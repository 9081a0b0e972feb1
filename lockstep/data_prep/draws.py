"""The random numbers of a recipe, in streams under one seed; initial parameters and statistics."""

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
    "Shapes",
    "generator_of",
    "initial_parameters",
    "initial_statistics",
    "layer_sizes",
]

# streams of random numbers under one seed
ORDER = 1
PARAMETERS = 2
MASKS = 3
NOISE = 11

Parameters = dict[str, NDArray[Any]]
"""Canonical name -> array."""
Shapes = dict[str, tuple[int, ...]]
"""Canonical name -> shape."""


def generator_of(*key: int) -> np.random.Generator:
    """The random generator of a key: the seed, the stream, and the place in it, as an epoch."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def layer_sizes(inputs: int, hidden: Sequence[int], outputs: int) -> list[tuple[str, int, int]]:
    """Canonical name, inputs and outputs of every linear layer.

    Example: `layer_sizes(10, [50], 2)` is ("linear1", 10, 50), ("linear2", 50, 2).
    """
    sizes = [inputs, *hidden, outputs]
    return [(f"linear{i}", sizes[i - 1], sizes[i]) for i in range(1, len(sizes))]


def initial_parameters(recipe: Recipe, inputs: int, outputs: int) -> Parameters:
    """Weights (in, out) and biases (out,), float64, as `lockstep.data_prep.initialise` draws them.

    A normalisation has weights 1 and biases 0.
    """
    model = recipe.model
    generator = generator_of(recipe.training.seed, PARAMETERS)
    layers = layer_sizes(inputs, model.hidden, outputs)
    parameters: Parameters = {}
    for i, (name, fan_in, fan_out) in enumerate(layers, start=1):
        parameters[f"{name}.weight"] = draw_weight(model.init, generator, fan_in, fan_out)
        # drawn even for a model without biases, so that the weights are the same with and without
        bias = draw_bias(model.init, generator, fan_in, fan_out)
        if model.bias:
            parameters[f"{name}.bias"] = bias
        if model.norm != "none" and i <= len(model.hidden):
            parameters[f"norm{i}.weight"] = np.ones(fan_out)
            parameters[f"norm{i}.bias"] = np.zeros(fan_out)
    return parameters


def initial_statistics(model: Model) -> Parameters:
    """The running statistics before training: mean 0 and variance 1, shape (units,), float64.

    A model without batch normalisation has none.
    """
    if model.norm != "batch":
        return {}
    statistics: Parameters = {}
    for i, units in enumerate(model.hidden, start=1):
        statistics[f"norm{i}.mean"] = np.zeros(units)
        statistics[f"norm{i}.var"] = np.ones(units)
    return statistics
