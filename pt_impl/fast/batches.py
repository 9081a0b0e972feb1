"""The batches of the fast engine, ready for its products."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.data_prep import IGNORED, Batches, PreparedData
from lockstep.recipe import BinaryCrossEntropy, CrossEntropy, Huber, Loss, Recipe, SquaredError
from pt_impl.fast.network import ALIGNED

__all__ = ["Batch", "load_batches", "load_rows"]


class Batch(NamedTuple):
    """Features (D, B) and (B, D), with 1 for the bias, and targets of the rows that count; how many
    these are; whether the batch completes its update; and the dropout mask (units, B) of each
    hidden layer, scaled. Of all batches loaded with it, the targets, the shifts, which rows count
    (None: all), the factors of their summed losses, and in which no row counts, whose mean is 0 / 0
    and whose gradient 0 (None: there is none); its number among them.

    The slope of the batch's share of the loss is softmax(outputs) or sigmoid(outputs) x `scale_1B`
    + `shift_KB`; of a number, `scale_1B` x the error, which the Huber loss clips.
    """

    x_DB: torch.Tensor
    x_BD: torch.Tensor
    y_B: torch.Tensor
    scale_1B: torch.Tensor
    shift_KB: torch.Tensor
    used: int
    last: bool
    masks: list[torch.Tensor]
    all_y_TB: torch.Tensor
    all_shift_TKB: torch.Tensor
    all_used_TB: torch.Tensor | None
    all_share_T: torch.Tensor
    all_empty_T: torch.Tensor | None
    number: int


def load_batches(
    recipe: Recipe,
    data: PreparedData,
    batches: Batches,
    masks: Sequence[NDArray[np.bool_]],
    device: torch.device,
) -> list[Batch]:
    """Batches of one epoch, and their dropout masks (T, B, units), on the device; `data` is of the
    recipe's dtype.

    Of S members at once the rows are (T, S, B) and the masks (T, S, B, units), and the arrays of a
    batch begin with S.
    """
    rows_TB, weight_TB, count_T, share_T, last_T = batches
    x_ND = data.train_x_ND
    if "linear1.bias" in data.parameters:
        x_ND = np.concatenate([x_ND, np.ones_like(x_ND[:, :1])], axis=1)
    # gathered in memory of the device
    rows = torch.from_numpy(rows_TB).to(device)
    found_TBD, y_TB = (
        torch.from_numpy(array_N).to(device)[rows] for array_N in (x_ND, data.train_y_N)
    )
    # each batch begins where the first does, so that its place does not matter
    size = found_TBD[0].numel()
    x_TBD = found_TBD.new_empty(len(rows), -(-size // ALIGNED) * ALIGNED)[:, :size].view(
        found_TBD.shape
    )
    x_TBD.copy_(found_TBD)
    scale_TB, shift_TKB, total_T = _targets(
        recipe.loss, data.outputs, data.train_y_N[rows_TB], weight_TB
    )
    empty_T = total_T == 0
    factor_T = (share_T / np.where(empty_T, 1.0, total_T).T).T
    scales, shifts = (
        torch.from_numpy((part * factor_T[..., None, None]).astype(x_ND.dtype)).to(device)
        for part in (scale_TB[..., None, :], shift_TKB)
    )
    # [rows, units] -> [units, rows]
    turned = [torch.from_numpy(mask_TBH).to(device).mT for mask_TBH in masks]
    scaled = [
        mask_THB.to(x_TBD.dtype).mul_(1 / (1 - data.dropout)).unbind(0) for mask_THB in turned
    ]
    used_TB = None
    if (count_T < y_TB.shape[-1]).any():
        used_TB = (torch.arange(y_TB.shape[-1]) < torch.from_numpy(count_T)[:, None]).to(device)
        used_TB = used_TB[:, None].expand(y_TB.shape) if y_TB.ndim == 3 else used_TB
    empty = torch.from_numpy(empty_T).to(device) if empty_T.any() else None
    all_of_them = (
        y_TB,
        shifts,
        used_TB,
        torch.from_numpy(factor_T.astype(x_ND.dtype)).to(device),
        empty,
    )
    rows_of = zip(*(part.unbind(0) for part in (x_TBD, y_TB, scales, shifts)))
    found = []
    for t, (x_BD, y_B, scale_1B, shift_KB) in enumerate(rows_of):
        n = int(count_T[t])
        if n < y_B.shape[-1]:
            x_BD, y_B, scale_1B, shift_KB = (
                x_BD[..., :n, :],
                y_B[..., :n],
                scale_1B[..., :n],
                shift_KB[..., :n],
            )
        kept = [mask_THB[t][..., :n] for mask_THB in scaled]
        found.append(
            Batch(x_BD.mT, x_BD, y_B, scale_1B, shift_KB, n, bool(last_T[t]), kept, *all_of_them, t)
        )
    return found


def load_rows(
    loss: Loss, x_ND: NDArray[Any], y_N: NDArray[Any], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to evaluate, on the device."""
    return torch.from_numpy(x_ND).to(device), torch.from_numpy(y_N).to(device)


def _targets(
    loss: Loss, outputs: int, y_TB: NDArray[Any], weight_TB: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scale (T, B) and shift (T, K, B) of the slope before it is divided, and the divisors (T,) of
    the mean.
    """
    nothing_TKB = np.zeros((*y_TB.shape[:-1], outputs, y_TB.shape[-1]))
    if isinstance(loss, BinaryCrossEntropy):
        factor_TB = weight_TB * np.where(y_TB == 1, loss.positive_weight, 1.0)
        return factor_TB, -(factor_TB * y_TB)[..., None, :], weight_TB.sum(axis=-1)
    if isinstance(loss, SquaredError | Huber):
        return (
            (2.0 if isinstance(loss, SquaredError) else 1.0) * weight_TB,
            nothing_TKB,
            weight_TB.sum(axis=-1),
        )
    assert isinstance(loss, CrossEntropy)
    counts_TB = weight_TB * (y_TB != IGNORED)
    weight_K = np.asarray(loss.class_weights or (1.0,) * outputs)
    label_TKB = (y_TB[..., None, :] == np.arange(outputs)[:, None]) * counts_TB[..., None, :]
    spread = loss.label_smoothing / outputs
    target_TKB = (
        (1 - loss.label_smoothing) * label_TKB + spread * counts_TB[..., None, :]
    ) * weight_K[:, None]
    return target_TKB.sum(axis=-2), -target_TKB, (label_TKB * weight_K[:, None]).sum(axis=(-2, -1))
