"""A run's state to and from the files that people save with this framework."""

import io
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.files.input_file import input_size, parsing, read_input
from lockstep.files.outputs import NEW, write_file
from lockstep.files.torch_file import refuse_unsafe
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, expected_shapes
from lockstep.records.convert import as_count, largest_state
from pt_impl.io.checkpoint import fill_optimizer, import_state, slot_of
from pt_impl.model import STATISTICS, import_parameters
from pt_impl.train import initial_state

__all__ = ["read", "write"]

PREFIXES = ("module.", "_orig_mod.")
"""The prefixes that DataParallel and `torch.compile` add to every name."""


def read(path: Path, recipe: Recipe, data: PreparedData) -> tuple[Parameters, int | None]:
    """The arrays of a file, named as in a checkpoint, and its updates; None if it does not tell.

    The file is a `state_dict` of the model, in .pt or .safetensors, or in .pt
    {"model": ..., "optimizer": ..., "average": ..., "update": ...}, of which all but the model may
    be absent.

    Raises:
        InputError: the file cannot be read, or has names or groups that are not the recipe's.
    """
    content = _load(path, largest_state(recipe, data))
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state_dict")
    if "model" not in content:
        content = {"model": content}
    unknown = content.keys() - {"model", "optimizer", "average", "update"}
    if unknown:
        raise InputError(f"{path}: extra: {', '.join(sorted(map(str, unknown)))}")
    arrays = _model_arrays(path, "parameters", content["model"])
    if "average" in content:
        averaged = _model_arrays(path, "average", content["average"])
        arrays |= {name: array for name, array in averaged.items() if name.startswith("average/")}
    steps = set()
    if "update" in content:
        steps.add(as_count(f"{path}: update", content["update"]))
    if "optimizer" in content:
        arrays |= _optimizer_arrays(path, recipe, data, content["optimizer"], steps)
    if len(steps) > 1:
        ages = ", ".join(map(str, sorted(steps)))
        raise InputError(f"{path}: parameters of different ages: {ages} updates")
    return arrays, steps.pop() if steps else None


def write(path: Path, recipe: Recipe, data: PreparedData, checkpoint: Checkpoint) -> None:
    """Write {"model", "optimizer", "update"}, and "average" if the recipe has one.

    A checkpoint of a model alone becomes its `state_dict`, as does any in .safetensors.

    Raises:
        InputError: the file cannot be written.
    """
    state = initial_state(recipe, data.cast(recipe.dtype), torch.device("cpu"))
    is_model_only = checkpoint.header.get("model_only")
    if is_model_only:
        arrays = checkpoint.below("parameters") | checkpoint.below("statistics")
        import_parameters(state.model, arrays)
    else:
        state = import_state(recipe, state, checkpoint)
    model = state.model.state_dict()
    if path.suffix == ".safetensors":
        tensors = {name: tensor.contiguous() for name, tensor in model.items()}
        write_file(path, save(tensors), NEW)
        return
    content: dict[str, Any] = {"model": model}
    if state.average is not None:
        content["average"] = state.average.module.state_dict()
    content |= {"optimizer": state.optimizer.state_dict(), "update": checkpoint.update}
    buffer = io.BytesIO()
    torch.save(model if is_model_only else content, buffer)
    write_file(path, buffer.getvalue(), NEW)


def _load(path: Path, largest: int) -> Any:
    if path.suffix == ".safetensors":
        content = read_input(path, largest)
        with parsing(path, "not a readable .safetensors file"):
            # sorted: safetensors returns them in another order each time
            return dict(sorted(load(content).items()))
    input_size(path)
    refuse_unsafe(path, largest)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        # any content may raise any error, whose text may advise to load the file unsafely
        kind = type(error).__name__
        raise InputError(
            f"{path}: not a readable .pt file: damaged, or truncated ({kind})"
        ) from None


def _model_arrays(path: Path, section: str, state_dict: Any) -> Parameters:
    if not isinstance(state_dict, dict):
        part = "model" if section == "parameters" else section
        raise InputError(
            f"{path}: {part}: a {type(state_dict).__name__}, not a state_dict of names and tensors"
        )
    arrays: Parameters = {}
    origin: dict[str, str] = {}
    for name, tensor in state_dict.items():
        short = str(name)
        for prefix in PREFIXES:
            short = short.removeprefix(prefix)
        layer, _, kind = short.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        key = f"{section}/{short}"
        if kind in STATISTICS:
            key = f"statistics/{layer}.{STATISTICS[kind]}"
        if key in origin:
            raise InputError(
                f"{path}: ambiguous: {origin[key]} and {name} are both {key.partition('/')[2]}"
            )
        arrays[key] = _array(path, str(name), tensor)
        origin[key] = str(name)
    return arrays


def _optimizer_arrays(
    path: Path, recipe: Recipe, data: PreparedData, saved: Any, steps: set[int]
) -> Parameters:
    """The optimizer's arrays, named as in a checkpoint; its steps are added to `steps`.

    PyTorch numbers the parameters group by group, in the order of the optimizer's groups.
    """
    groups = _numbered_groups(path, saved)
    state = initial_state(recipe, data.cast(recipe.dtype), torch.device("cpu"))
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    own_groups = [group["params"] for group in state.optimizer.param_groups]
    sizes = [len(group) for group in groups]
    expected_sizes = [len(group) for group in own_groups]
    if sizes != expected_sizes:
        raise InputError(
            f"{path}: optimizer: groups of other sizes than the recipe's: "
            f"{sizes} and {expected_sizes} parameters"
        )
    extra = saved["state"].keys() - set(chain(*groups))
    if extra:
        raise InputError(
            f"{path}: optimizer: extra: parameters {', '.join(sorted(map(str, extra)))}"
        )
    fill_optimizer(state)
    expected = expected_shapes(recipe, data, 1, 0)
    arrays: Parameters = {}
    for number, parameter in zip(chain(*groups), chain(*own_groups)):
        name = names[id(parameter)]
        slots = saved["state"].get(number, {})
        if "step" in slots:
            steps.add(as_count(f"{path}: optimizer: step of {name}", slots["step"]))
        for key in [key for key in slots if key != "step" and slots[key] is not None]:
            if key not in state.optimizer.state[parameter]:
                raise InputError(
                    f"{path}: optimizer: extra: {key} of {name}; {recipe.optimizer.name} has none"
                )
            # an optimizer may hold arrays that it never reads; no checkpoint has them
            place = f"optimizer/{slot_of(recipe, key)}/{name}"
            if place in expected:
                arrays[place] = _array(path, f"{key} of {name}", slots[key])
    return arrays


def _numbered_groups(path: Path, saved: Any) -> list[list[int]]:
    """The parameters' numbers, group by group, of an optimizer's state_dict.

    Raises:
        InputError: `saved` is no such state_dict.
    """
    state_dict: dict[str, Any] = saved if isinstance(saved, dict) else {}
    states = state_dict.get("state")
    groups = state_dict.get("param_groups")
    groups = groups if _is_all(groups, list, dict) else [{}]
    numbers = [group.get("params") for group in groups or ()]
    if not _is_all(states, dict, dict) or not all(_is_all(group, list, int) for group in numbers):
        raise InputError(
            f'{path}: optimizer: no state_dict of an optimizer, {{"state": {{0: {{...}}}}, '
            f'"param_groups": [...]}}'
        )
    return numbers


def _is_all(value: Any, kind: type, of: type) -> bool:
    """Whether a list or dictionary holds values of one type alone."""
    values = value.values() if isinstance(value, dict) else value
    return isinstance(value, kind) and all(type(each) is of for each in values)


def _array(path: Path, name: str, tensor: Any) -> NDArray[Any]:
    """The tensor as a NumPy view: its shape is checked before anything is copied.

    Raises:
        InputError: the value is not a dense tensor of floats.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{path}: {name}: a {type(tensor).__name__}, not a tensor")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_neg():
        raise InputError(
            f"{path}: {name}: sparse, or a view that holds no numbers of its own; must be dense"
        )
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{path}: {name}: {tensor.dtype}, must be float32 or float64")
    # [out, in] -> [in, out]
    array: NDArray[Any] = tensor.detach().cpu().numpy().T
    return array
