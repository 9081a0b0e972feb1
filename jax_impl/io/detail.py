"""What an update is recorded with in detail, named as in a trace."""

from typing import Any

import jax
from flax import nnx

from jax_impl.model import FLAX_NAMES

__all__ = ["detail_of_batch", "detail_of_gradients"]


def detail_of_batch(batch: Any, outputs: dict[str, jax.Array]) -> dict[str, Any]:
    """The rows of a batch, its dropout masks, and what every layer made of them, in the dtype of the last."""
    *_, outputs_BK = outputs.values()
    found = {"batch/x": batch.x_BD, "batch/y": batch.y_B}
    found |= {f"batch/mask{i}": mask_BH for i, mask_BH in enumerate(batch.masks, start=1)}
    found |= {f"forward/{name}": h_BH.astype(outputs_BK.dtype) for name, h_BH in outputs.items() if name != "input"}
    return found


def detail_of_gradients(kind: str, gradients: Any) -> dict[str, Any]:
    """The gradients of a model's parameters as they are now: "gradients/linear1.weight", ..., laid out (in, out)."""
    # both [in, out]
    found = {}
    for layer, tensors in nnx.to_pure_dict(gradients).items():
        for name, flax_name in FLAX_NAMES[layer.rstrip("0123456789")].items():
            if flax_name in tensors:
                found[f"{kind}/{layer}.{name}"] = tensors[flax_name]
    return found
