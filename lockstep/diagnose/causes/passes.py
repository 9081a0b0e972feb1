"""One forward and backward pass over the batches of an update, recomputed with the oracle's
functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import initial_parameters
from lockstep.diagnose.causes.side import Labels, Masks, Side
from lockstep.diagnose.causes.tensors import Tensors, family
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.loss import loss_and_slope
from lockstep.oracle.network import Pass, backward, forward, running_statistics
from lockstep.recipe import Recipe

__all__ = [
    "Bend",
    "Cut",
    "PassVariant",
    "compute",
    "null",
    "parts",
    "recorded_by",
    "statistics",
    "variant_of",
]

Cut = tuple[slice, float]
"""The rows of one batch of an update, and the batch's share of the gradient."""


@dataclass(frozen=True)
class Bend:
    """How a pass sees a parameter; a linear map, so that its transpose takes the gradient back."""

    there: Callable[[Array], Array]
    back: Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class PassVariant:
    """One pass as it may have been done.

    `bends` says how the pass sees some of the parameters. `labels` changes the labels of a batch.
    `factor` and `offset` act on its loss, given the labels before that change. `squash` is what the
    outputs go through before the loss: "", "softmax" or "sigmoid". With `statistics` normalisation
    is that of evaluation, and there are no gradients.
    """

    recipe: Recipe
    parameters: Tensors
    x: Array
    y: Labels
    masks: Masks
    arithmetic: Exact = field(default_factory=Exact)
    bends: Mapping[str, Bend] = field(default_factory=dict)
    labels: Callable[[Labels], Labels] = np.asarray
    factor: Callable[[Labels], float] = lambda y_B: 1.0
    offset: Callable[[Labels], float] = lambda y_B: 0.0
    squash: str = ""
    statistics: Tensors | None = None


def variant_of(side: Side) -> PassVariant | None:
    """The pass as the recipe has it; None where its inputs were not recorded, or the model is not
    known.
    """
    recipe = side.recipe
    batch = side.batch()
    parameters = side.parameters(side.update)
    if recipe is None or batch is None or not parameters or not side.declares("model", "loss"):
        return None
    last = parameters.get(f"linear{len(recipe.model.hidden) + 1}.weight")
    if batch.x.ndim != 2 or last is None or not last.shape[-1]:
        return None
    expected = initial_parameters(recipe, batch.x.shape[-1], last.shape[-1])
    if parameters.keys() != expected.keys():
        return None
    y = batch.y.astype(np.float64 if recipe.loss.predicts_number else np.int64)
    return PassVariant(recipe=recipe, parameters=parameters, x=batch.x, y=y, masks=batch.masks)


def parts(variant: PassVariant) -> list[Cut]:
    """Rows and share of each batch of the update."""
    size = variant.recipe.training.batch
    rows = len(variant.y)
    gradient = variant.recipe.gradient
    if gradient.accumulate == 1:
        return [(slice(0, rows), 1.0)]
    cuts = [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]
    if gradient.accumulate_mean == "rows":
        return [(cut, (cut.stop - cut.start) / rows) for cut in cuts]
    return [(cut, 1 / len(cuts)) for cut in cuts]


def compute(variant: PassVariant, cuts: Sequence[Cut] | None = None) -> Tensors:
    """The outputs of every layer, the mean loss and the mean gradients.

    Args:
        variant: the pass.
        cuts: the batches; None: those of the recipe.
    """
    outputs: dict[str, list[Array]] = {}
    summed: Tensors = {}
    bent = dict(variant.parameters)
    for name in variant.bends.keys() & bent.keys():
        bent[name] = variant.bends[name].there(bent[name])
    with np.errstate(all="ignore"):
        for cut, share in cuts or parts(variant):
            passed = _forward(variant, bent, cut)
            for name, values in list(passed.outputs.items())[1:]:
                outputs.setdefault(name, []).append(values)
            for name, array in _loss_and_gradients(variant, bent, passed, cut).items():
                summed[name] = summed.get(name, 0.0) + share * array
    layers = {name: np.concatenate(values) for name, values in outputs.items()}
    return family("forward", layers) | summed


def _forward(variant: PassVariant, parameters: Tensors, cut: slice) -> Pass:
    """The forward pass over the rows of a cut."""
    return forward(
        variant.recipe.model,
        parameters,
        variant.x[cut],
        variant.arithmetic,
        statistics=variant.statistics,
        masks=_masks(variant, cut),
    )


def _masks(variant: PassVariant, cut: slice) -> list[NDArray[np.bool_]]:
    return [mask[cut] for mask in variant.masks]


def _loss_and_gradients(
    variant: PassVariant, parameters: Tensors, passed: Pass, cut: slice
) -> Tensors:
    """The mean loss and the gradients of a batch, without its share."""
    recipe = variant.recipe
    exact = variant.arithmetic
    y_B = variant.y[cut]
    *_, outputs_BK = passed.outputs.values()
    squashed_BK = _squash(variant.squash, outputs_BK)
    mean, slope = loss_and_slope(recipe.loss, squashed_BK, variant.labels(y_B), exact)
    factor = variant.factor(y_B)
    terms = {"loss/mean": np.atleast_2d(mean * factor + variant.offset(y_B))}
    if variant.statistics is not None:
        return terms
    slope = factor * _unsquash(variant.squash, outputs_BK, slope)
    masks = _masks(variant, cut)
    gradients = backward(recipe.model, parameters, passed, slope, exact, masks=masks)
    for name, array in gradients.items():
        bend = variant.bends.get(name)
        terms[f"gradients/{name}"] = array if bend is None else bend.back(array)
    return terms


def statistics(variant: PassVariant, before: Tensors) -> Tensors:
    """Running statistics after the update's passes."""
    running = before
    training = replace(variant, statistics=None)
    for cut, _ in parts(variant):
        passed = _forward(training, variant.parameters, cut)
        rows = cut.stop - cut.start
        running = running_statistics(
            variant.recipe.model, running, passed, rows, variant.arithmetic
        )
    return family("statistics", running)


def recorded_by(side: Side) -> Tensors:
    """What `compute` gives, as it was recorded."""
    loss = side.series("loss")
    tensors = {} if loss is None else {"loss/mean": np.full((1, 1), loss)}
    tensors |= family("forward", side.detail("forward"))
    return tensors | family("gradients", side.detail("gradients"))


def null(side: Side) -> Tensors | None:
    """The pass as the recipe has it; None where its inputs were not recorded."""
    variant = variant_of(side)
    return None if variant is None else compute(variant)


def _squash(name: str, outputs_BK: Array) -> Array:
    if name == "softmax":
        shifted = np.exp(outputs_BK - outputs_BK.max(axis=-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
    return 1 / (1 + np.exp(-outputs_BK)) if name == "sigmoid" else outputs_BK


def _unsquash(name: str, outputs_BK: Array, slope: Array) -> Array:
    """The slope by the outputs, from the slope by the squashed outputs."""
    squashed = _squash(name, outputs_BK)
    if name == "softmax":
        return np.asarray(squashed * (slope - (slope * squashed).sum(axis=-1, keepdims=True)))
    return squashed * (1 - squashed) * slope if name == "sigmoid" else slope
