"""A run's state to and from the files that people save with this framework."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lockstep.checkpoint import Checkpoint, expected_shapes
from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.tensor_file import write_file
from pt_impl.checkpoint import SLOTS, _begin, import_state
from pt_impl.model import STATISTICS, import_parameters
from pt_impl.train import initial_state

__all__ = ["read", "write"]

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and `torch.compile` put before every name."""


def read(path: Path, recipe: Recipe, data: PreparedData) -> tuple[Parameters, int | None]:
    """The arrays of a file, named as in a checkpoint, and the updates done, where the file says.

    A `state_dict` of the model, in .pt or .safetensors, or in .pt {"model": ..., "optimizer": ..., "average": ...}.

    Raises:
        InputError: not readable, or names or groups that are not the recipe's.
    """
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise InputError(
            f"{path}: not a readable {path.suffix} file: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not a state_dict")
    if "model" not in found:
        found = {"model": found}
    unknown = found.keys() - {"model", "optimizer", "average", "update"}
    if unknown:
        raise InputError(f"{path}: extra: {', '.join(sorted(map(str, unknown)))}")
    arrays = _model_arrays(path, "parameters", found["model"])
    if "average" in found:
        averaged = _model_arrays(path, "average", found["average"])
        arrays |= {name: array for name, array in averaged.items() if name.startswith("average/")}
    steps = {int(found["update"])} if "update" in found else set()
    if "optimizer" in found:
        arrays |= _optimizer_arrays(path, recipe, data, found["optimizer"], steps)
    if len(steps) > 1:
        raise InputError(f"{path}: parameters of different ages: {', '.join(map(str, sorted(steps)))} updates")
    return arrays, steps.pop() if steps else None


def write(path: Path, recipe: Recipe, data: PreparedData, checkpoint: Checkpoint) -> None:
    """Write {"model", "optimizer", "update"}, with "average" where one is kept, or of a model alone its `state_dict`;
    a .safetensors always holds the model alone.

    Raises:
        InputError: the file cannot be written.
    """
    state = initial_state(recipe, data.cast(recipe.dtype), torch.device("cpu"))
    if checkpoint.header.get("model_only"):
        import_parameters(state.model, checkpoint.below("parameters") | checkpoint.below("statistics"))
    else:
        state = import_state(recipe, state, checkpoint)
    content: dict[str, Any] = {"model": state.model.state_dict()}
    if path.suffix == ".safetensors":
        write_file(path, save({name: tensor.contiguous() for name, tensor in content["model"].items()}))
        return
    if state.average is not None:
        content["average"] = state.average.module.state_dict()
    content |= {"optimizer": state.optimizer.state_dict(), "update": checkpoint.update}
    buffer = io.BytesIO()
    torch.save(content["model"] if checkpoint.header.get("model_only") else content, buffer)
    write_file(path, buffer.getvalue())


def _model_arrays(path: Path, section: str, state_dict: Any) -> Parameters:
    found: Parameters = {}
    origin: dict[str, str] = {}
    for name, tensor in state_dict.items():
        short = str(name)
        for prefix in PREFIXES:
            short = short.removeprefix(prefix)
        layer, _, kind = short.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        key = f"statistics/{layer}.{STATISTICS[kind]}" if kind in STATISTICS else f"{section}/{short}"
        if key in origin:
            raise InputError(f"{path}: ambiguous: {origin[key]} and {name} are both {key.partition('/')[2]}")
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{path}: {name}: a {type(tensor).__name__}, not a tensor")
        found[key], origin[key] = _array(path, str(name), tensor), str(name)
    return found


def _optimizer_arrays(path: Path, recipe: Recipe, data: PreparedData, saved: Any, steps: set[int]) -> Parameters:
    """PyTorch numbers the parameters, group by group, in the order in which the optimizer was given them."""
    state = initial_state(recipe, data.cast(recipe.dtype), torch.device("cpu"))
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    mine = [[names[id(parameter)] for parameter in group["params"]] for group in state.optimizer.param_groups]
    theirs = [group["params"] for group in saved["param_groups"]]
    if [len(group) for group in mine] != [len(group) for group in theirs]:
        sizes = " and ".join(str([len(group) for group in groups]) for groups in (theirs, mine))
        raise InputError(f"{path}: optimizer: groups of other sizes than the recipe's: {sizes} parameters")
    _begin(state)
    expected = expected_shapes(recipe, data, 1, 0)
    found: Parameters = {}
    numbered = [(i, name) for numbers, group in zip(theirs, mine) for i, name in zip(numbers, group)]
    extra = saved["state"].keys() - {i for i, _ in numbered}
    if extra:
        raise InputError(f"{path}: optimizer: extra: parameters {', '.join(map(str, sorted(extra)))}")
    for i, name in numbered:
        own = state.optimizer.state[dict(state.model.named_parameters())[name]]
        for key, value in saved["state"].get(i, {}).items():
            if key == "step":
                steps.add(int(value))
            elif value is not None:
                slot = SLOTS.get(key, key)
                if key not in own:
                    raise InputError(f"{path}: optimizer: extra: {key} of {name}; {recipe.optimizer.name} has none")
                # what an optimizer keeps and never reads is left behind
                if f"optimizer/{slot}/{name}" in expected:
                    found[f"optimizer/{slot}/{name}"] = _array(path, f"{key} of {name}", value)
    return found


def _array(path: Path, name: str, tensor: torch.Tensor) -> Any:
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{path}: {name}: {tensor.dtype}, must be float32 or float64")
    # [out, in] -> [in, out]
    return np.ascontiguousarray(tensor.detach().cpu().numpy().T) if tensor.ndim else tensor.numpy()
