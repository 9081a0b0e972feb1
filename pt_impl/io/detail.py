"""What an update is recorded with in detail, named as in a trace."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from lockstep.recipe import Recipe
from pt_impl.model import MLP
from pt_impl.update import Batch, State

__all__ = ["Detail", "watching"]

Detail = dict[str, list[torch.Tensor]]
"""Name as in a trace -> a tensor for each batch; of gradients, one for each time that they are
ready.
"""


@contextmanager
def watching(recipe: Recipe, state: State, batches: Sequence[Batch]) -> Iterator[Detail]:
    """The detail of the batches that are trained until the block ends, by hooks on the model and
    its optimizer.
    """
    detail: Detail = {}
    gradients: dict[str, torch.Tensor] = {}
    clipped: dict[str, torch.Tensor] = {}
    with ExitStack() as hooks:
        hooks.enter_context(_watched(state.model, detail))
        for name, parameter in state.model.named_parameters():
            hook = parameter.register_post_accumulate_grad_hook(
                lambda parameter, name=name: gradients.update({name: _gradient(parameter)})
            )
            hooks.callback(hook.remove)
        hook = state.optimizer.register_step_pre_hook(
            lambda *_: clipped.update(
                {name: _gradient(p) for name, p in state.model.named_parameters()}
            )
        )
        hooks.callback(hook.remove)
        for batch in batches:
            _add(detail, _rows(batch))
        yield detail
    kinds = (
        {"gradients": gradients}
        if recipe.gradient.clip == "none"
        else {"gradients": gradients, "clip": clipped}
    )
    for kind, tensors in kinds.items():
        _add(
            detail,
            {
                f"{kind}/{name}": tensors[name]
                for name, _ in state.model.named_parameters()
                if name in tensors
            },
        )


@contextmanager
def _watched(model: MLP, detail: Detail) -> Iterator[None]:
    """The model's layers are seen by `detail`, until the block ends."""
    outputs = model.outputs

    def outputs_seen(
        x_BD: torch.Tensor, masks: Sequence[torch.Tensor] = ()
    ) -> dict[str, torch.Tensor]:
        layers = outputs(x_BD, masks)
        _add(detail, _forward(layers))
        return layers

    model.outputs = outputs_seen  # type: ignore[method-assign] # of this one object
    try:
        yield
    finally:
        del model.outputs


def _add(detail: Detail, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        detail.setdefault(name, []).append(tensor.detach().cpu())


def _rows(batch: Batch) -> dict[str, torch.Tensor]:
    """The rows of a batch, and its dropout masks."""
    masks = {f"batch/mask{i}": mask_BH for i, mask_BH in enumerate(batch.masks, start=1)}
    return {"batch/x": batch.x_BD, "batch/y": batch.y_B} | masks


def _forward(outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What every layer made of the rows, in the dtype of the last."""
    *_, outputs_BK = outputs.values()
    return {
        f"forward/{name}": h_BH.to(outputs_BK.dtype)
        for name, h_BH in outputs.items()
        if name != "input"
    }


def _gradient(parameter: Any) -> torch.Tensor:
    # [out, in] -> [in, out]; a copy: clipping works in place
    copy: torch.Tensor = parameter.grad.detach().t().clone()
    return copy
