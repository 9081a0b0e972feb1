"""The batches of the fast engine, ready for its products."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lockstep.data_prep import Batches, PreparedData
from lockstep.recipe import Loss, Recipe
from pt_impl.fast.losses import MODULES
from pt_impl.fast.network import ALIGNED

__all__ = ["Batch", "load_batches", "load_rows"]


class Batch(NamedTuple):
    """The rows of a batch that count, and what it shares with the batches loaded with it.

    The gradient of the batch's share of the loss by the outputs is softmax(outputs), or
    sigmoid(outputs), x `scale_1B` + `shift_KB`. If a number is predicted it is `scale_1B` x the
    error, which the Huber loss clips.
    """

    x_DB: Tensor
    """The features, with 1 for the bias."""
    x_BD: Tensor
    y_B: Tensor
    scale_1B: Tensor
    shift_KB: Tensor
    used: int
    """The number of rows that count."""
    last: bool
    """Whether the batch completes its update."""
    masks: list[Tensor]
    """The dropout mask (units, B) of each hidden layer, scaled."""
    all_y_TB: Tensor
    """The targets of all batches loaded together; `all_shift_TKB` are their shifts."""
    all_shift_TKB: Tensor
    all_used_TB: Tensor | None
    """Which of their rows count; None: all."""
    all_share_T: Tensor
    """The factors of their summed losses."""
    all_empty_T: Tensor | None
    """Which have no row that counts, so a mean of 0 / 0 and a gradient of 0; None: none."""
    number: int
    """The place of this batch among them."""


def load_batches(
    recipe: Recipe,
    data: PreparedData,
    batches: Batches,
    masks: Sequence[NDArray[np.bool_]],
    device: torch.device,
) -> list[Batch]:
    """Batches of one epoch on the device.

    Args:
        recipe: what is trained.
        data: its rows, in the recipe's dtype.
        batches: rows (T, B), or of S members at once (T, S, B); a batch's arrays then begin with S.
        masks: the dropout mask (T, B, units) of each hidden layer, or (T, S, B, units).
        device: where the arrays go.
    """
    rows_TB, weight_TB, count_T, share_T, last_T = batches
    x_ND = data.train_x_ND
    if "linear1.bias" in data.parameters:
        x_ND = np.concatenate([x_ND, np.ones_like(x_ND[:, :1])], axis=1)
    # gathered in memory of the device
    rows = torch.from_numpy(rows_TB).to(device)
    x_TBD = _aligned(torch.from_numpy(x_ND).to(device)[rows])
    y_TB = torch.from_numpy(data.train_y_N).to(device)[rows]
    scale_TB, shift_TKB, total_T = MODULES[recipe.loss.name].targets(
        recipe.loss, data.outputs, data.train_y_N[rows_TB], weight_TB
    )
    empty_T = total_T == 0
    factor_T = (share_T / np.where(empty_T, 1.0, total_T).T).T
    factor_T11 = factor_T[..., None, None]
    scales = torch.from_numpy((scale_TB[..., None, :] * factor_T11).astype(x_ND.dtype)).to(device)
    shifts = torch.from_numpy((shift_TKB * factor_T11).astype(x_ND.dtype)).to(device)
    masks_by_layer = [_scaled(mask_TBH, data.dropout, x_TBD) for mask_TBH in masks]
    shared = (
        y_TB,
        shifts,
        _which_count(count_T, y_TB),
        torch.from_numpy(factor_T.astype(x_ND.dtype)).to(device),
        torch.from_numpy(empty_T).to(device) if empty_T.any() else None,
    )
    loaded = []
    own = zip(x_TBD.unbind(0), y_TB.unbind(0), scales.unbind(0), shifts.unbind(0))
    for t, (x_BD, y_B, scale_1B, shift_KB) in enumerate(own):
        n = int(count_T[t])
        if n < y_B.shape[-1]:
            x_BD = x_BD[..., :n, :]
            y_B = y_B[..., :n]
            scale_1B = scale_1B[..., :n]
            shift_KB = shift_KB[..., :n]
        masks_of_t = [mask_THB[t][..., :n] for mask_THB in masks_by_layer]
        last = bool(last_T[t])
        batch = Batch(x_BD.mT, x_BD, y_B, scale_1B, shift_KB, n, last, masks_of_t, *shared, t)
        loaded.append(batch)
    return loaded


def _aligned(x_TBD: Tensor) -> Tensor:
    """A copy in which each batch is aligned as the first, so that its place does not matter."""
    size = x_TBD[0].numel()
    room = x_TBD.new_empty(len(x_TBD), -(-size // ALIGNED) * ALIGNED)
    return room[:, :size].view(x_TBD.shape).copy_(x_TBD)


def _scaled(mask_TBH: NDArray[np.bool_], dropout: float, like: Tensor) -> tuple[Tensor, ...]:
    """The mask (units, B) of each batch, scaled."""
    # [rows, units] -> [units, rows]
    mask_THB = torch.from_numpy(mask_TBH).to(like.device).mT
    return mask_THB.to(like.dtype).mul_(1 / (1 - dropout)).unbind(0)


def _which_count(count_T: NDArray[np.int64], y_TB: Tensor) -> Tensor | None:
    """Which rows count, of the targets' shape; None if all do."""
    rows = y_TB.shape[-1]
    if not (count_T < rows).any():
        return None
    used_TB = (torch.arange(rows) < torch.from_numpy(count_T)[:, None]).to(y_TB.device)
    return used_TB[:, None].expand(y_TB.shape) if y_TB.ndim == 3 else used_TB


def load_rows(
    loss: Loss, x_ND: NDArray[Any], y_N: NDArray[Any], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows to evaluate, on the device."""
    return torch.from_numpy(x_ND).to(device), torch.from_numpy(y_N).to(device)
