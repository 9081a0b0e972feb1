"""What an update is recorded with in detail, named as in a trace."""

from typing import Any

import torch

__all__ = ["detail_of_batch", "detail_of_gradients"]


def detail_of_batch(batch: Any, outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The rows of a batch, its dropout masks, and what every layer made of them, in the dtype of the last."""
    *_, outputs_BK = outputs.values()
    found = {"batch/x": batch.x_BD, "batch/y": batch.y_B}
    found |= {f"batch/mask{i}": mask_BH for i, mask_BH in enumerate(batch.masks, start=1)}
    found |= {f"forward/{name}": h_BH.to(outputs_BK.dtype) for name, h_BH in outputs.items() if name != "input"}
    return {name: values.detach().cpu() for name, values in found.items()}


def detail_of_gradients(kind: str, gradients: Any) -> dict[str, Any]:
    """The gradients of a model's parameters as they are now: "gradients/linear1.weight", ..., laid out (in, out)."""
    # [out, in] -> [in, out]; a copy: clipping works in place
    tensors = {name: parameter.grad for name, parameter in gradients.named_parameters()}
    return {f"{kind}/{name}": tensor.detach().t().cpu().clone() for name, tensor in tensors.items()}
