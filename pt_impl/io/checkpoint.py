"""The state of a run, to and from a checkpoint's arrays."""

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lockstep.data_prep import Parameters
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint
from pt_impl.model import MLP, export_parameters, import_parameters
from pt_impl.update import State

__all__ = ["export_state", "fill_optimizer", "import_state", "slot_of"]


def slot_of(recipe: Recipe, key: str) -> str:
    """A checkpoint's name of an optimizer's slot: PyTorch's differs, a rule's is the same."""
    return recipe.optimizer.spec.torch_slots.get(key, key)


def export_state(recipe: Recipe, state: State) -> Parameters:
    """Every array of the state, named as in a checkpoint."""
    arrays = _model_arrays("parameters", state.model)
    if state.average is not None:
        # its running statistics are those of the model
        averaged = _model_arrays("average", state.average.module)
        arrays |= {name: array for name, array in averaged.items() if "average/" in name}
    for name, parameter in state.model.named_parameters():
        if parameter in state.optimizer.state:
            for key, value in state.optimizer.state[parameter].items():
                if key != "step" and value is not None:
                    arrays[f"optimizer/{slot_of(recipe, key)}/{name}"] = _canonical(value)
        if state.loss is not None and parameter.grad is not None:
            arrays[f"accumulated/{name}"] = _canonical(parameter.grad)
    if state.loss is not None:
        arrays["accumulated/loss"] = _canonical(state.loss)
    return arrays


def import_state(recipe: Recipe, state: State, checkpoint: Checkpoint) -> State:
    """The initial state with the checkpoint's arrays in place of its own."""
    if checkpoint.update:
        _import_optimizer(recipe, state, checkpoint)
    statistics = _section(recipe, checkpoint, "statistics")
    import_parameters(state.model, _section(recipe, checkpoint, "parameters") | statistics)
    if state.average is not None:
        average = _section(recipe, checkpoint, "average")
        import_parameters(cast(MLP, state.average.module), average | statistics)
    if not checkpoint.accumulated:
        return state
    accumulated = checkpoint.below("accumulated")
    for name, parameter in state.model.named_parameters():
        parameter.grad = _tensor(accumulated[name], parameter)
    return state._replace(loss=_tensor(accumulated["loss"], parameter))


def _section(recipe: Recipe, checkpoint: Checkpoint, section: str) -> Parameters:
    arrays = checkpoint.below(section)
    return {name: array.astype(recipe.dtype) for name, array in arrays.items()}


def fill_optimizer(state: State) -> None:
    """Let the optimizer make its state, as PyTorch does in the first step.

    The step changes the parameters, which are to be replaced.
    """
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


def _import_optimizer(recipe: Recipe, state: State, checkpoint: Checkpoint) -> None:
    fill_optimizer(state)
    for name, parameter in state.model.named_parameters():
        slots = state.optimizer.state[parameter]
        for key, value in slots.items():
            path = f"optimizer/{slot_of(recipe, key)}/{name}"
            slots[key] = _slot_value(recipe, checkpoint, path, parameter, value)
        if "step" in slots:
            slots["step"] = torch.full_like(slots["step"], checkpoint.update)
    scheduler = state.scheduler
    scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": checkpoint.update})
    for group, schedule in zip(state.optimizer.param_groups, scheduler.lr_lambdas):
        group["lr"] = schedule(checkpoint.update)


def _slot_value(
    recipe: Recipe, checkpoint: Checkpoint, path: str, parameter: Tensor, fresh: Any
) -> Any:
    """The checkpoint's value of a parameter's slot; the fresh one if it has none."""
    if path in checkpoint.arrays:
        return _tensor(checkpoint.arrays[path], parameter).to(fresh)
    if path.startswith("optimizer/momentum_product/"):
        return _momentum_product(recipe, checkpoint, fresh)
    return fresh


def _momentum_product(recipe: Recipe, checkpoint: Checkpoint, like: Tensor) -> Tensor:
    """A power of beta1, as it is without a ramp; no checkpoint holds it."""
    # multiplied as the optimizer does
    beta1 = recipe.optimizer.get("beta1")
    factors = torch.full((checkpoint.update + 1,), beta1, dtype=like.dtype)
    factors[0] = 1
    return factors.cumprod(0)[-1].to(like)


def _model_arrays(section: str, model: nn.Module) -> Parameters:
    """Parameters under the section's name, running statistics under their own."""
    trained = {name for name, _ in model.named_parameters()}
    arrays = {}
    for name, array in export_parameters(cast(MLP, model)).items():
        arrays[f"{section if name in trained else 'statistics'}/{name}"] = array
    return arrays


def _canonical(tensor: Tensor) -> NDArray[Any]:
    # [out, in] -> [in, out]; fewer dimensions stay as they are
    array: NDArray[Any] = tensor.detach().cpu().numpy().T
    return array


def _tensor(array: NDArray[Any], like: Tensor) -> Tensor:
    # [in, out] -> [out, in]
    return torch.tensor(np.ascontiguousarray(array.T) if array.ndim else array).to(like)
