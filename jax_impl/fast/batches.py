"""The batches of the fast engine, ready for its products."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from jax_impl.fast.network import Network
from lockstep.data_prep import Batches, PreparedData
from lockstep.recipe import Loss, Recipe

__all__ = ["Batch", "load_batches", "load_rows"]


class Batch(NamedTuple):
    """Batches, stacked along a leading axis.

    Features and masks are (units, B), or (B, units) if the network is by rows.
    """

    x: jax.Array
    y_B: jax.Array
    used: jax.Array
    """The number of rows that count."""
    share: jax.Array
    """The weight of the batch's loss in its update."""
    last: jax.Array
    """Whether the batch completes its update."""
    masks: list[jax.Array]
    """The dropout mask of each hidden layer."""


def load_batches(
    recipe: Recipe,
    data: PreparedData,
    batches: Batches,
    masks: Sequence[NDArray[np.bool_]],
    device: jax.Device,
) -> Batch:
    """Batches of one epoch on the device.

    Args:
        recipe: what is trained.
        data: its rows, in the recipe's dtype.
        batches: rows (T, B), or of S members at once (T, S, B); a batch's arrays then begin with S.
        masks: the dropout mask (T, B, units) of each hidden layer, or (T, S, B, units).
        device: where the arrays go.
    """
    rows_TB, _, count_T, share_T, last_T = batches
    x = data.train_x_ND[rows_TB]
    masks = list(masks)
    if not Network(recipe).by_rows:
        # [rows, units] -> [units, rows]
        x = x.swapaxes(-1, -2)
        masks = [mask.swapaxes(-1, -2) for mask in masks]
    y_TB = _narrow(recipe.loss, data.train_y_N)[rows_TB]
    scalars = (count_T.astype(np.int32), share_T.astype(data.train_x_ND.dtype), last_T)
    arrays = (x, y_TB, *scalars, masks)
    return Batch(*jax.device_put(jax.tree.map(np.ascontiguousarray, arrays), device))


def load_rows(
    loss: Loss, x_ND: NDArray[Any], y_N: NDArray[Any], device: jax.Device
) -> tuple[jax.Array, jax.Array]:
    """Rows to evaluate, on the device."""
    return jax.device_put(x_ND, device), jax.device_put(_narrow(loss, y_N), device)


def _narrow(loss: Loss, y_N: NDArray[Any]) -> NDArray[Any]:
    # JAX has no 64-bit integers unless it has 64-bit floats
    return y_N if loss.predicts_number else y_N.astype(np.int32)
