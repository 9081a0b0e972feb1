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
    """Batches stacked along a leading axis: features, targets, how many rows count, the batch's
    share of its update, whether it completes it, and the dropout mask of each hidden layer.
    Features and masks are (units, B), or (B, units) where the network is by rows."""

    x: jax.Array
    y_B: jax.Array
    used: jax.Array
    share: jax.Array
    last: jax.Array
    masks: list[jax.Array]


def load_batches(
    recipe: Recipe,
    data: PreparedData,
    batches: Batches,
    masks: Sequence[NDArray[np.bool_]],
    device: jax.Device,
) -> Batch:
    """Batches of one epoch, and their dropout masks (T, B, units), on the device; `data` is of the
    recipe's dtype.

    Of S members at once the rows are (T, S, B) and the masks (T, S, B, units), and the arrays of a
    batch begin with S.
    """
    rows_TB, _, count_T, share_T, last_T = batches
    x, masks = data.train_x_ND[rows_TB], list(masks)
    if not Network(recipe).by_rows:
        # [rows, units] -> [units, rows]
        x, *masks = (array.swapaxes(-1, -2) for array in (x, *masks))
    scalars = (count_T.astype(np.int32), share_T.astype(data.train_x_ND.dtype), last_T)
    arrays = (x, _narrow(recipe.loss, data.train_y_N)[rows_TB], *scalars, masks)
    return Batch(*jax.device_put(jax.tree.map(np.ascontiguousarray, arrays), device))


def load_rows(
    loss: Loss, x_ND: NDArray[Any], y_N: NDArray[Any], device: jax.Device
) -> tuple[jax.Array, jax.Array]:
    """Rows to evaluate, on the device."""
    return jax.device_put(x_ND, device), jax.device_put(_narrow(loss, y_N), device)


def _narrow(loss: Loss, y_N: NDArray[Any]) -> NDArray[Any]:
    # JAX has no 64-bit integers unless it has 64-bit floats
    return y_N if loss.predicts_number else y_N.astype(np.int32)
