"""The detail of an update: everything from its rows to its gradients, named as in a trace."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from lockstep.recipe import Recipe
from pt_impl.model import MLP
from pt_impl.update import Batch, State

__all__ = ["Detail", "watching"]

Detail = dict[str, list[Tensor]]
"""Name in a trace -> one tensor for each batch; of gradients one, as the last batch left it."""


@contextmanager
def watching(recipe: Recipe, state: State, batches: Sequence[Batch]) -> Iterator[Detail]:
    """The detail of the batches that are trained in the block, by hooks on model and optimizer."""
    detail: Detail = {}
    gradients: dict[str, Tensor] = {}
    clipped: dict[str, Tensor] = {}
    parameters = dict(state.model.named_parameters())

    def note_clipped(*_: Any) -> None:
        for name, parameter in parameters.items():
            clipped[name] = _gradient(parameter)

    with ExitStack() as hooks:
        hooks.enter_context(_watched(state.model, detail))
        for name, parameter in parameters.items():
            hook = parameter.register_post_accumulate_grad_hook(
                lambda parameter, name=name: gradients.update({name: _gradient(parameter)})
            )
            hooks.callback(hook.remove)
        hook = state.optimizer.register_step_pre_hook(note_clipped)
        hooks.callback(hook.remove)
        for batch in batches:
            _add(detail, _rows(batch))
        yield detail
    _add(detail, _named("gradients", gradients, parameters))
    if recipe.gradient.clip != "none":
        _add(detail, _named("clip", clipped, parameters))


@contextmanager
def _watched(model: MLP, detail: Detail) -> Iterator[None]:
    """The outputs of the model's layers are added to `detail` until the block ends."""
    original = model.outputs

    def outputs(x_BD: Tensor, masks: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        layers = original(x_BD, masks)
        _add(detail, _forward(layers))
        return layers

    model.outputs = outputs  # type: ignore[method-assign] # of this one object
    try:
        yield
    finally:
        del model.outputs


def _add(detail: Detail, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        detail.setdefault(name, []).append(tensor.detach().cpu())


def _rows(batch: Batch) -> dict[str, Tensor]:
    """The rows of a batch, and its dropout masks."""
    masks = {f"batch/mask{i}": mask_BH for i, mask_BH in enumerate(batch.masks, start=1)}
    return {"batch/x": batch.x_BD, "batch/y": batch.y_B} | masks


def _forward(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output of every layer, in the dtype of the last."""
    _, *layers = outputs
    dtype = outputs[layers[-1]].dtype
    return {f"forward/{name}": outputs[name].to(dtype) for name in layers}


def _named(
    kind: str, tensors: Mapping[str, Tensor], parameters: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The tensors as "gradients/linear1.weight", ..., in the order of the parameters."""
    return {f"{kind}/{name}": tensors[name] for name in parameters if name in tensors}


def _gradient(parameter: Any) -> Tensor:
    # [out, in] -> [in, out]; a copy: clipping works in place
    copy: Tensor = parameter.grad.detach().t().clone()
    return copy
