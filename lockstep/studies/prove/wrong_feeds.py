"""What a twin may wrongly be fed: other rows, labels, masks or initial parameters than those
prepared.
"""

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
"""From a recipe and its data to what the twin is fed in its place."""

DrawnBatches = Callable[[int], Batches]
DrawnMasks = Callable[[int], list[NDArray[np.bool_]]]


@dataclass(frozen=True, kw_only=True)
class _Fed(PreparedData):
    """Data whose batches and masks are changed once they are drawn."""

    change_batches: Callable[[DrawnBatches, int], Batches] = lambda drawn, epoch: drawn(epoch)
    change_masks: Callable[[DrawnMasks, int], list[NDArray[np.bool_]]] = lambda drawn, epoch: drawn(
        epoch
    )

    def batches(self, epoch: int) -> Batches:
        """The changed batches of an epoch, counted from 0."""
        return self.change_batches(super().batches, epoch)

    def masks(self, epoch: int) -> list[NDArray[np.bool_]]:
        """The changed masks of an epoch."""
        return self.change_masks(super().masks, epoch)


def _with_batches(change: Callable[[DrawnBatches, int], Batches]) -> Feed:
    return lambda recipe, data: _Fed(**_content(data), change_batches=change)


def _with_masks(change: Callable[[DrawnMasks, int], list[NDArray[np.bool_]]]) -> Feed:
    return lambda recipe, data: _Fed(**_content(data), change_masks=change)


def _content(data: PreparedData) -> dict[str, Any]:
    return {field.name: getattr(data, field.name) for field in fields(data)}


def _without_last(drawn: DrawnBatches, epoch: int) -> Batches:
    """Only full batches; an epoch goes on with those of the next, so that there are as many
    updates.
    """
    length, full = len(drawn(0).count_T), int((drawn(0).count_T == drawn(0).rows_TB.shape[1]).sum())
    places = [divmod(update, full) for update in range(epoch * length, (epoch + 1) * length)]
    return Batches(
        *(
            np.stack([drawn(e)[field][t] for e, t in places])
            for field in range(len(Batches._fields))
        )
    )


def _all_count(drawn: DrawnBatches, epoch: int) -> Batches:
    found = drawn(epoch)
    full_TB = np.ones_like(found.weight_TB)
    return found._replace(weight_TB=full_TB, count_T=full_TB.sum(axis=1).astype(np.int64))


def _with_replacement(drawn: DrawnBatches, epoch: int) -> Batches:
    found = drawn(epoch)
    rows = int((found.count_T).sum())
    return found._replace(
        rows_TB=np.random.default_rng(epoch).integers(rows, size=found.rows_TB.shape)
    )


order_of_next_epoch: Feed = _with_batches(lambda drawn, epoch: drawn(epoch + 1))
drawn_anew: Feed = _with_batches(_with_replacement)
"""Rows drawn with replacement."""
dropped_last: Feed = _with_batches(_without_last)
padding_counts: Feed = _with_batches(_all_count)
masks_of_next_epoch: Feed = _with_masks(lambda drawn, epoch: drawn(epoch + 1))


def shifted_labels(recipe: Recipe, data: PreparedData) -> PreparedData:
    """Each row with the label of the row before it."""
    return replace(data, train_y_N=np.roll(data.train_y_N, 1))


def features_by(change: Callable[[PreparedData, NDArray[np.float64]], NDArray[np.float64]]) -> Feed:
    """All features changed: (data, x) -> x."""
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
    """All initial parameters changed: (name, array) -> array."""
    return lambda recipe, data: replace(
        data, parameters={n: change(n, array) for n, array in data.parameters.items()}
    )


def other_seed(recipe: Recipe, data: PreparedData) -> PreparedData:
    """Initial parameters of another seed."""
    other = recipe.with_values({"training.seed": recipe.training.seed + 1})
    parameters: Parameters = initial_parameters(other, len(data.columns), data.outputs)
    return replace(data, parameters=parameters)
