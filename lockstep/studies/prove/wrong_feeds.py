"""Wrong feeds: rows, labels, masks or initial parameters that differ from the prepared ones."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Batches, Parameters, PreparedData, initial_parameters
from lockstep.recipe import Recipe

__all__ = [
    "Feed",
    "drawn_anew",
    "dropped_last",
    "features_by",
    "masks_of_next_epoch",
    "one_not_a_number",
    "order_of_next_epoch",
    "other_seed",
    "padding_counts",
    "parameters_by",
    "shifted_labels",
]

Feed = Callable[[Recipe, PreparedData], PreparedData]
"""Makes, from a recipe and its data, the data that the twin is fed instead."""

DrawnBatches = Callable[[int], Batches]
DrawnMasks = Callable[[int], list[NDArray[np.bool_]]]
ChangeBatches = Callable[[DrawnBatches, int], Batches]
ChangeMasks = Callable[[DrawnMasks, int], list[NDArray[np.bool_]]]
"""Takes the function that draws, and the epoch, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class _Fed(PreparedData):
    """Data whose batches and masks are changed after they are drawn."""

    change_batches: ChangeBatches = lambda drawn, epoch: drawn(epoch)
    change_masks: ChangeMasks = lambda drawn, epoch: drawn(epoch)

    def batches(self, epoch: int) -> Batches:
        """The changed batches of an epoch, counted from 0."""
        return self.change_batches(super().batches, epoch)

    def masks(self, epoch: int) -> list[NDArray[np.bool_]]:
        """The changed masks of an epoch."""
        return self.change_masks(super().masks, epoch)


def _with_batches(change: ChangeBatches) -> Feed:
    return lambda recipe, data: _Fed(**_content(data), change_batches=change)


def _with_masks(change: ChangeMasks) -> Feed:
    return lambda recipe, data: _Fed(**_content(data), change_masks=change)


def _content(data: PreparedData) -> dict[str, Any]:
    return {field.name: getattr(data, field.name) for field in fields(data)}


def _without_last(drawn: DrawnBatches, epoch: int) -> Batches:
    """Full batches alone. An epoch goes on with those of the next, and has as many updates."""
    first = drawn(0)
    length = len(first.count_T)
    full = int((first.count_T == first.rows_TB.shape[1]).sum())
    places = [divmod(update, full) for update in range(epoch * length, (epoch + 1) * length)]

    def stack(field: int) -> NDArray[Any]:
        return np.stack([drawn(of_epoch)[field][t] for of_epoch, t in places])

    return Batches(*map(stack, range(len(Batches._fields))))


def _all_count(drawn: DrawnBatches, epoch: int) -> Batches:
    batches = drawn(epoch)
    full_TB = np.ones_like(batches.weight_TB)
    return batches._replace(weight_TB=full_TB, count_T=full_TB.sum(axis=1).astype(np.int64))


def _with_replacement(drawn: DrawnBatches, epoch: int) -> Batches:
    batches = drawn(epoch)
    rows = int(batches.count_T.sum())
    rows_TB = np.random.default_rng(epoch).integers(rows, size=batches.rows_TB.shape)
    return batches._replace(rows_TB=rows_TB)


order_of_next_epoch: Feed = _with_batches(lambda drawn, epoch: drawn(epoch + 1))
drawn_anew: Feed = _with_batches(_with_replacement)
"""Rows drawn with replacement."""
dropped_last: Feed = _with_batches(_without_last)
padding_counts: Feed = _with_batches(_all_count)
masks_of_next_epoch: Feed = _with_masks(lambda drawn, epoch: drawn(epoch + 1))


def shifted_labels(recipe: Recipe, data: PreparedData) -> PreparedData:
    """Each row has the label of the row before it."""
    return replace(data, train_y_N=np.roll(data.train_y_N, 1))


def features_by(change: Callable[[PreparedData, NDArray[np.float64]], NDArray[np.float64]]) -> Feed:
    """A feed that changes all features: (data, x) -> x."""
    return lambda recipe, data: replace(
        data,
        train_x_ND=change(data, data.train_x_ND),
        held_out_x_ND=change(data, data.held_out_x_ND),
    )


def one_not_a_number(recipe: Recipe, data: PreparedData) -> PreparedData:
    """A feature of one row of the second batch is NaN."""
    x_ND = data.train_x_ND.copy()
    x_ND[data.batches(0).rows_TB[1, 0], 0] = np.nan
    return replace(data, train_x_ND=x_ND)


def parameters_by(change: Callable[[str, NDArray[np.float64]], NDArray[np.float64]]) -> Feed:
    """A feed that changes all initial parameters: (name, array) -> array."""

    def feed(recipe: Recipe, data: PreparedData) -> PreparedData:
        changed = {name: change(name, array) for name, array in data.parameters.items()}
        return replace(data, parameters=changed)

    return feed


def other_seed(recipe: Recipe, data: PreparedData) -> PreparedData:
    """Initial parameters of another seed."""
    other = recipe.with_values({"training.seed": recipe.training.seed + 1})
    parameters: Parameters = initial_parameters(other, len(data.columns), data.outputs)
    return replace(data, parameters=parameters)
