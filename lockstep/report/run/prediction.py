"""One held-out row through both trained models, layer by layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import IGNORED, PreparedData
from lockstep.numbers import difference, name, number
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.report.run.targets import in_its_unit

__all__ = ["Prediction", "predict_first_held_out"]


@dataclass(frozen=True)
class LayerRow:
    """The outputs of one layer for the sample."""

    layer: str
    torch: tuple[float, ...]
    jax: tuple[float, ...]
    difference: float


@dataclass(frozen=True)
class Prediction:
    """One held-out sample through both trained models: each layer, the two answers, the truth."""

    layers: tuple[LayerRow, ...]
    predicted: str
    true: str


def predict_first_held_out(
    recipe: Recipe, data: PreparedData, traces: Mapping[str, Trace]
) -> Prediction:
    """The first held-out row, as both traces recorded it."""
    torch = traces["torch"].prediction
    jax = traces["jax"].prediction
    layers = [
        LayerRow(
            layer,
            _floats(torch[layer]),
            _floats(jax[layer]),
            difference(torch[layer], jax[layer]),
        )
        for layer in torch
    ]
    by_torch = _answer(recipe, data, layers[-1].torch)
    by_jax = _answer(recipe, data, layers[-1].jax)
    unit = ""
    if not data.classes:
        unit = f" ({number(data.target_mean)} + {number(data.target_scale)} x the last layer)"
    predicted = f"Predicted by torch: {by_torch}; by jax: {by_jax}{unit}."
    return Prediction(tuple(layers), predicted, _truth(recipe, data))


def _floats(array: NDArray[Any]) -> tuple[float, ...]:
    return tuple(np.ravel(array).astype(float).tolist())


def _answer(recipe: Recipe, data: PreparedData, last_layer: Sequence[float]) -> str:
    """What the last layer says: a class with its probability, or a number in the target's unit."""
    if any(math.isnan(value) for value in last_layer):
        return "none (not a number) (nan)" if data.classes else "none (not a number)"
    if not data.classes:
        return number(in_its_unit(data, last_layer[0]))
    shares = tuple(last_layer)
    if recipe.loss.spec.link == "sigmoid":
        shares = (1 - last_layer[0], last_layer[0])
    best = int(np.argmax(shares))
    share = f"{100 * shares[best]:.2f} %" if math.isfinite(shares[best]) else "nan"
    return f"{name(data.classes[best])} ({share})"


def _truth(recipe: Recipe, data: PreparedData) -> str:
    label = data.held_out_y_N[0]
    if not data.classes:
        return f"True {name(data.target)}: {number(in_its_unit(data, label))}."
    if label != IGNORED:
        return f"True class: {name(data.classes[int(label)])}."
    return f"True class: {name(recipe.loss.ignored_class or '')}, which the loss ignores."
