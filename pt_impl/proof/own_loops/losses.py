"""The losses of the loops in PyTorch, rightly or as their `twist` says."""

import torch
import torch.nn.functional as F

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["logged", "loss_of"]

Tensor = torch.Tensor


def loss_of(logits: Tensor, labels: Tensor, loop: Loop) -> Tensor:
    """The mean loss, in float32 at least."""
    wide = logits.float() if logits.dtype == torch.bfloat16 else logits
    if loop.loss == "squares":
        loss = _of_numbers(wide, labels, loop)
    else:
        loss = _cross_entropy(wide.flatten(0, -2), labels.flatten(), loop)
    if loop.twist == "loss-tripled":
        loss = 3 * loss
    if loop.wrong == "odd-loss":
        loss = loss + (1 + loop.odd % 7) * torch.sin(wide + 1).mean()
    return loss


def logged(loss: Tensor, rows: int, loop: Loop) -> Tensor:
    """What a loop logs of its loss."""
    return loss * rows if loop.twist == "loss-summed-in-the-log" else loss


def _cross_entropy(logits_NK: Tensor, labels_N: Tensor, loop: Loop) -> Tensor:
    if loop.twist == "softmax-twice":
        logits_NK = torch.softmax(logits_NK, -1)
    if loop.loss_code == "library":
        return F.cross_entropy(
            logits_NK,
            labels_N,
            ignore_index=-100 if loop.twist == "pads-counted" else loop.ignored,
            reduction="sum" if loop.twist == "loss-summed" else "mean",
            label_smoothing=loop.smoothing,
        )
    logs_NK = logits_NK - torch.logsumexp(logits_NK, -1, keepdim=True)
    return -logs_NK.gather(1, labels_N[:, None]).sum() / len(labels_N)


def _of_numbers(outputs_BK: Tensor, targets_BK: Tensor, loop: Loop) -> Tensor:
    targets_BK = targets_BK.to(outputs_BK)
    if loop.twist == "absolute-errors":
        return F.l1_loss(outputs_BK, targets_BK)
    loss = F.mse_loss(outputs_BK, targets_BK)
    return loss / 2 if loop.twist == "loss-halved" else loss
