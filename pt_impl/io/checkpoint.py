"""The state of a run, to and from a checkpoint's arrays."""

from typing import Any

import numpy as np
import torch

from lockstep.data_prep import Parameters
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint
from pt_impl.model import export_parameters, import_parameters

__all__ = ["export_state", "import_state"]


def _slot_of(recipe: Recipe, key: str) -> str:
    """What a checkpoint calls what an optimizer remembers: PyTorch has names of its own, rules have
    the canonical.
    """
    return recipe.optimizer.spec.torch_slots.get(key, key)


def export_state(recipe: Recipe, state: Any) -> Parameters:
    """Every array of the state, named as in a checkpoint."""
    found = _model_arrays("parameters", state.model)
    if state.average is not None:
        found |= {
            name: a
            for name, a in _model_arrays("average", state.average.module).items()
            if "average/" in name
        }
    for name, parameter in state.model.named_parameters():
        for key, value in (
            state.optimizer.state[parameter].items() if parameter in state.optimizer.state else ()
        ):
            if key != "step" and value is not None:
                found[f"optimizer/{_slot_of(recipe, key)}/{name}"] = _canonical(value)
        if state.loss is not None and parameter.grad is not None:
            found[f"accumulated/{name}"] = _canonical(parameter.grad)
    if state.loss is not None:
        found["accumulated/loss"] = _canonical(state.loss)
    return found


def import_state(recipe: Recipe, state: Any, checkpoint: Checkpoint) -> Any:
    """The initial state with what the checkpoint has in its place."""
    if checkpoint.update:
        _import_optimizer(recipe, state, checkpoint)
    parameters, statistics, average = (
        {name: array.astype(recipe.dtype) for name, array in checkpoint.below(section).items()}
        for section in ("parameters", "statistics", "average")
    )
    import_parameters(state.model, parameters | statistics)
    if state.average is not None:
        import_parameters(state.average.module, average | statistics)
    if not checkpoint.accumulated:
        return state
    accumulated = checkpoint.below("accumulated")
    for name, parameter in state.model.named_parameters():
        parameter.grad = _own(accumulated[name], parameter)
    return state._replace(loss=_own(accumulated["loss"], parameter))


def _begin(state: Any) -> None:
    """Let the optimizer make its state, as PyTorch does in the first step; what that does to the
    parameters is to be replaced."""
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


def _import_optimizer(recipe: Recipe, state: Any, checkpoint: Checkpoint) -> None:
    model, optimizer, scheduler = state.model, state.optimizer, state.scheduler
    _begin(state)
    slots = {f"optimizer/{name}": array for name, array in checkpoint.below("optimizer").items()}
    for name, parameter in model.named_parameters():
        remembered = optimizer.state[parameter]
        for key, value in remembered.items():
            path = f"optimizer/{_slot_of(recipe, key)}/{name}"
            if key == "step":
                remembered[key] = torch.full_like(value, checkpoint.update)
            elif path in slots:
                remembered[key] = _own(slots[path], parameter).to(value)
            elif _slot_of(recipe, key) == "momentum_product":
                # without a ramp a power of beta1, which no checkpoint holds; multiplied as the
                # optimizer does
                factors = torch.full(
                    (checkpoint.update + 1,), recipe.optimizer.get("beta1"), dtype=value.dtype
                )
                factors[0] = 1
                remembered[key] = factors.cumprod(0)[-1].to(value)
    scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": checkpoint.update})
    for group, schedule in zip(optimizer.param_groups, scheduler.lr_lambdas):
        group["lr"] = schedule(checkpoint.update)


def _model_arrays(section: str, model: Any) -> Parameters:
    """Parameters under the section's name, running statistics under their own."""
    trained = {name for name, _ in model.named_parameters()}
    exported = export_parameters(model).items()
    return {
        f"{section if name in trained else 'statistics'}/{name}": array for name, array in exported
    }


def _canonical(tensor: torch.Tensor) -> Any:
    # [out, in] -> [in, out]; of fewer dimensions there is nothing to turn
    return tensor.detach().cpu().numpy().T


def _own(array: Any, like: torch.Tensor) -> torch.Tensor:
    # [in, out] -> [out, in]
    return torch.tensor(np.ascontiguousarray(array.T) if array.ndim else array).to(like)
