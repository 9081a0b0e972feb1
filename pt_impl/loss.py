"""Mean loss over the rows that count, and the sums that its metrics are made of."""

import torch
from torch.nn import functional

from lockstep.data_prep import IGNORED
from lockstep.recipe import BinaryCrossEntropy, CrossEntropy, Huber, Loss, SquaredError

__all__ = ["link", "mean_loss", "sums"]


def mean_loss(loss: Loss, outputs_BK: torch.Tensor, y_B: torch.Tensor, count: int) -> torch.Tensor:
    """Mean over the first `count` rows, the others are padding; classes (B,) are int64, numbers
    (B,) floats.
    """
    outputs_BK, y_B = outputs_BK[:count], y_B[:count]
    if isinstance(loss, CrossEntropy):
        return functional.cross_entropy(
            outputs_BK,
            y_B,
            weight=outputs_BK.new_tensor(loss.class_weights) if loss.class_weights else None,
            ignore_index=IGNORED,
            reduction="mean",
            label_smoothing=loss.label_smoothing,
        )
    output_B = outputs_BK[:, 0]
    if isinstance(loss, BinaryCrossEntropy):
        positive = output_B.new_tensor(loss.positive_weight)
        return functional.binary_cross_entropy_with_logits(
            output_B, y_B.to(output_B.dtype), weight=None, reduction="mean", pos_weight=positive
        )
    if isinstance(loss, Huber):
        return functional.huber_loss(output_B, y_B, reduction="mean", delta=loss.delta)
    assert isinstance(loss, SquaredError)
    return functional.mse_loss(output_B, y_B, reduction="mean")


def sums(loss: Loss, outputs_NK: torch.Tensor, y_N: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over all rows, for `lockstep.records.trace.metrics_of`. A class is right where its logit
    is the largest,
    or above 0."""
    if loss.predicts_number:
        error_N, deviation_N = outputs_NK[:, 0] - y_N, y_N - y_N.mean()
        found = {
            "squares": error_N.square(),
            "absolute": error_N.abs(),
            "variation": deviation_N.square(),
        }
    elif loss.spec.link == "sigmoid":
        found = {"right": (outputs_NK[:, 0] > 0) == (y_N == 1)}
    else:
        found = {"right": outputs_NK.argmax(dim=-1) == y_N}
    found["rows"] = torch.ones_like(y_N) if loss.predicts_number else y_N != IGNORED
    return {name: values_N.sum() for name, values_N in found.items()}


def link(loss: Loss, outputs_NK: torch.Tensor) -> dict[str, torch.Tensor]:
    """What turns the outputs into a prediction; nothing for a number."""
    if loss.spec.link == "softmax":
        return {"softmax": torch.softmax(outputs_NK, dim=-1)}
    return {"sigmoid": torch.sigmoid(outputs_NK)} if loss.spec.link == "sigmoid" else {}
