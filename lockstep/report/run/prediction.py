"""One held-out row through both trained models, layer by layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lockstep.data_prep import IGNORED, PreparedData
from lockstep.numbers import difference, name, number
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.report.run.targets import in_its_unit

__all__ = ["Prediction", "predict_first_held_out"]


@dataclass(frozen=True)
class LayerRow:
    """What one layer gave for the sample."""

    layer: str
    torch: tuple[float, ...]
    jax: tuple[float, ...]
    difference: float


@dataclass(frozen=True)
class Prediction:
    """One held-out sample through the trained model: each layer, what it means in both, and the
    truth.
    """

    layers: tuple[LayerRow, ...]
    predicted: str
    true: str


def predict_first_held_out(
    recipe: Recipe, data: PreparedData, traces: Mapping[str, Trace]
) -> Prediction:
    """The first held-out row, as both traces recorded it."""
    torch, jax = traces["torch"].prediction, traces["jax"].prediction
    layers = [
        LayerRow(
            layer,
            tuple(float(value) for value in np.ravel(torch[layer])),
            tuple(float(value) for value in np.ravel(jax[layer])),
            difference(torch[layer], jax[layer]),
        )
        for layer in torch
    ]
    predicted = [_predict(recipe, data, layers[-1].torch), _predict(recipe, data, layers[-1].jax)]
    return Prediction(tuple(layers), *_predicted_sentence(recipe, data, *zip(*predicted)))


def _predict(
    recipe: Recipe, data: PreparedData, last_layer: Sequence[float]
) -> tuple[str, float | None]:
    """The class and its probability, or the number in the target's unit, that the last layer
    means.
    """
    if any(math.isnan(value) for value in last_layer):
        return "none (not a number)", math.nan if data.classes else None
    if not data.classes:
        return number(in_its_unit(data, last_layer[0])), None
    shares = (
        (1 - last_layer[0], last_layer[0])
        if recipe.loss.spec.link == "sigmoid"
        else tuple(last_layer)
    )
    best = int(np.argmax(shares))
    return name(data.classes[best]), shares[best]


def _predicted_sentence(
    recipe: Recipe,
    data: PreparedData,
    predicted: Sequence[str],
    probability: Sequence[float | None],
) -> tuple[str, str]:
    """What both frameworks predict for the first held-out row, and the truth."""

    def share(value: float | None) -> str:
        if value is None:
            return ""
        return f" ({100 * value:.2f} %)" if math.isfinite(value) else " (nan)"

    true = f"True class: {name(recipe.loss.ignored_class or '')}, which the loss ignores."
    label = data.held_out_y_N[0]
    if not data.classes:
        true = f"True {name(data.target)}: {number(in_its_unit(data, label))}."
    elif label != IGNORED:
        true = f"True class: {name(data.classes[int(label)])}."
    torch, jax = (f"{text}{share(value)}" for text, value in zip(predicted, probability))
    unit = (
        ""
        if data.classes
        else f" ({number(data.target_mean)} + {number(data.target_scale)} x the last layer)"
    )
    return f"Predicted by torch: {torch}; by jax: {jax}{unit}.", true
