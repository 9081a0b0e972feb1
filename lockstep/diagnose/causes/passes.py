"""One forward and backward pass over the batches of an update, recomputed with the oracle's
functions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import initial_parameters
from lockstep.diagnose.causes.judge import Tensors
from lockstep.diagnose.causes.side import Side
from lockstep.oracle.arithmetic import Array, Exact
from lockstep.oracle.loss import loss_and_slope
from lockstep.oracle.network import backward, forward, running_statistics
from lockstep.recipe import Recipe

__all__ = ["Bend", "Variant", "compute", "null", "parts", "recorded", "statistics", "variant_of"]

Labels = NDArray[Any]


@dataclass(frozen=True)
class Bend:
    """How a pass sees a parameter; a linear map, so that its transpose takes the gradient back."""

    there: Callable[[Array], Array]
    back: Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One pass as it may have been done.

    `factor` and `offset` act on the loss of a batch, given its labels; `labels` changes these
    first; `squash` is what the outputs go through before the loss: "", "softmax" or "sigmoid". With
    `statistics` normalisation is that of evaluation, and there are no gradients.
    """

    recipe: Recipe
    parameters: Tensors
    x: Array
    y: Labels
    masks: tuple[NDArray[np.bool_], ...]
    arithmetic: Exact = field(default_factory=Exact)
    bends: Mapping[str, Bend] = field(default_factory=dict)
    labels: Callable[[Labels], Labels] = np.asarray
    factor: Callable[[Labels], float] = lambda y_B: 1.0
    offset: Callable[[Labels], float] = lambda y_B: 0.0
    squash: str = ""
    statistics: Tensors | None = None


def variant_of(side: Side) -> Variant | None:
    """The pass as the recipe has it; None where its inputs were not recorded, or the model is not
    known.
    """
    recipe, batch, parameters = side.recipe, side.batch(), side.parameters(side.update)
    if recipe is None or batch is None or not parameters or not side.declares("model", "loss"):
        return None
    x, y, masks = batch
    outputs = parameters.get(
        f"linear{len(recipe.model.hidden) + 1}.weight", np.zeros((0, 0))
    ).shape[-1]
    if (
        x.ndim != 2
        or not outputs
        or parameters.keys() != initial_parameters(recipe, x.shape[-1], outputs).keys()
    ):
        return None
    y = y.astype(np.float64 if recipe.loss.predicts_number else np.int64)
    return Variant(recipe=recipe, parameters=parameters, x=x, y=y, masks=masks)


def parts(variant: Variant) -> list[tuple[slice, float]]:
    """Rows and share of each batch of the update."""
    size, rows = variant.recipe.training.batch, len(variant.y)
    if variant.recipe.gradient.accumulate == 1:
        return [(slice(0, rows), 1.0)]
    cuts = [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]
    by_rows = variant.recipe.gradient.accumulate_mean == "rows"
    return [(cut, (cut.stop - cut.start) / rows if by_rows else 1 / len(cuts)) for cut in cuts]


def compute(variant: Variant, cuts: list[tuple[slice, float]] | None = None) -> Tensors:
    """The outputs of every layer, the mean loss and the mean gradients; `cuts` in the place of the
    recipe's.
    """
    layers: dict[str, list[Array]] = {}
    summed: Tensors = {}
    seen = {name: variant.bends[name].there(p) if name in variant.bends else p
            for name, p in variant.parameters.items()}  # fmt: skip
    recipe, exact = variant.recipe, variant.arithmetic
    with np.errstate(all="ignore"):
        for cut, share in cuts or parts(variant):
            masks = [mask[cut] for mask in variant.masks]
            passed = forward(
                recipe.model,
                seen,
                variant.x[cut],
                exact,
                statistics=variant.statistics,
                masks=masks,
            )
            for name, values in list(passed.outputs.items())[1:]:
                layers.setdefault(name, []).append(values)
            y_B = variant.labels(variant.y[cut])
            *_, outputs_BK = passed.outputs.values()
            mean, slope = loss_and_slope(
                recipe.loss, _squash(variant.squash, outputs_BK), y_B, exact
            )
            factor = variant.factor(variant.y[cut])
            terms = {"loss/mean": np.atleast_2d(mean * factor + variant.offset(variant.y[cut]))}
            if variant.statistics is None:
                slope = factor * _unsquash(variant.squash, outputs_BK, slope)
                found = backward(recipe.model, seen, passed, slope, exact, masks=masks)
                terms |= {
                    f"gradients/{k}": variant.bends[k].back(g) if k in variant.bends else g
                    for k, g in found.items()
                }
            summed = {name: summed.get(name, 0.0) + share * array for name, array in terms.items()}
    return {f"forward/{name}": np.concatenate(values) for name, values in layers.items()} | summed


def statistics(variant: Variant, before: Tensors) -> Tensors:
    """Running statistics after the update's passes."""
    found = before
    for cut, _ in parts(variant):
        masks = [mask[cut] for mask in variant.masks]
        passed = forward(
            variant.recipe.model,
            variant.parameters,
            variant.x[cut],
            variant.arithmetic,
            masks=masks,
        )
        found = running_statistics(
            variant.recipe.model, found, passed, cut.stop - cut.start, variant.arithmetic
        )
    return {f"statistics/{name}": array for name, array in found.items()}


def recorded(side: Side) -> Tensors:
    """What `compute` gives, as it was recorded."""
    loss = side.series("loss")
    found = {} if loss is None else {"loss/mean": np.full((1, 1), loss)}
    for family in ("forward", "gradients"):
        found |= {f"{family}/{name}": array for name, array in side.detail(family).items()}
    return found


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
    """The slope by the outputs from that by what they were squashed to."""
    squashed = _squash(name, outputs_BK)
    if name == "softmax":
        return np.asarray(squashed * (slope - (slope * squashed).sum(axis=-1, keepdims=True)))
    return squashed * (1 - squashed) * slope if name == "sigmoid" else slope
