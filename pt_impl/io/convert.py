"""A run's state to and from the files that people save with this framework."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.files.input_file import input_size, parsing, read_input
from lockstep.files.outputs import NEW, write_file
from lockstep.files.torch_file import refuse_unsafe
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, expected_shapes
from lockstep.records.convert import as_count, largest_state
from pt_impl.io.checkpoint import _begin, _slot_of, import_state
from pt_impl.model import STATISTICS, import_parameters
from pt_impl.train import initial_state

__all__ = ["read", "write"]

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and `torch.compile` put before every name."""


def read(path: Path, recipe: Recipe, data: PreparedData) -> tuple[Parameters, int | None]:
    """The arrays of a file, named as in a checkpoint, and the updates done, where the file says.

    A `state_dict` of the model, in .pt or .safetensors, or in .pt {"model": ..., "optimizer": ...,
    "average": ...}.

    Raises:
        InputError: not readable, or names or groups that are not the recipe's.
    """
    found = _load(path, largest_state(recipe, data))
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
    steps = {as_count(f"{path}: update", found["update"])} if "update" in found else set()
    if "optimizer" in found:
        arrays |= _optimizer_arrays(path, recipe, data, found["optimizer"], steps)
    if len(steps) > 1:
        raise InputError(
            f"{path}: parameters of different ages: {', '.join(map(str, sorted(steps)))} updates"
        )
    return arrays, steps.pop() if steps else None


def write(path: Path, recipe: Recipe, data: PreparedData, checkpoint: Checkpoint) -> None:
    """Write {"model", "optimizer", "update"}, with "average" where one is kept, or of a model alone
    its `state_dict`;
    a .safetensors always holds the model alone.

    Raises:
        InputError: the file cannot be written.
    """
    state = initial_state(recipe, data.cast(recipe.dtype), torch.device("cpu"))
    if checkpoint.header.get("model_only"):
        import_parameters(
            state.model, checkpoint.below("parameters") | checkpoint.below("statistics")
        )
    else:
        state = import_state(recipe, state, checkpoint)
    content: dict[str, Any] = {"model": state.model.state_dict()}
    if path.suffix == ".safetensors":
        write_file(
            path,
            save({name: tensor.contiguous() for name, tensor in content["model"].items()}),
            NEW,
        )
        return
    if state.average is not None:
        content["average"] = state.average.module.state_dict()
    content |= {"optimizer": state.optimizer.state_dict(), "update": checkpoint.update}
    buffer = io.BytesIO()
    torch.save(content["model"] if checkpoint.header.get("model_only") else content, buffer)
    write_file(path, buffer.getvalue(), NEW)


def _load(path: Path, largest: int) -> Any:
    if path.suffix == ".safetensors":
        content = read_input(path, largest)
        with parsing(path, "not a readable .safetensors file"):
            return dict(sorted(load(content).items()))  # it gives them in another order each time
    input_size(path)
    refuse_unsafe(path, largest)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, "cpu", weights_only=True)
    except (
        Exception
    ) as error:  # whatever the content leads to; the text may be advice to load it unsafely
        raise InputError(
            f"{path}: not a readable .pt file: damaged, or truncated ({type(error).__name__})"
        ) from None


def _model_arrays(path: Path, section: str, state_dict: Any) -> Parameters:
    if not isinstance(state_dict, dict):
        part = "model" if section == "parameters" else section
        raise InputError(
            f"{path}: {part}: a {type(state_dict).__name__}, not a state_dict of names and tensors"
        )
    found: Parameters = {}
    origin: dict[str, str] = {}
    for name, tensor in state_dict.items():
        short = str(name)
        for prefix in PREFIXES:
            short = short.removeprefix(prefix)
        layer, _, kind = short.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        key = (
            f"statistics/{layer}.{STATISTICS[kind]}" if kind in STATISTICS else f"{section}/{short}"
        )
        if key in origin:
            raise InputError(
                f"{path}: ambiguous: {origin[key]} and {name} are both {key.partition('/')[2]}"
            )
        found[key], origin[key] = _array(path, str(name), tensor), str(name)
    return found


def _optimizer_arrays(
    path: Path, recipe: Recipe, data: PreparedData, saved: Any, steps: set[int]
) -> Parameters:
    """PyTorch numbers the parameters, group by group, in the order in which the optimizer was given
    them.
    """
    groups = _numbered_groups(path, saved)
    state = initial_state(recipe, data.cast(recipe.dtype), torch.device("cpu"))
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    mine = [
        [names[id(parameter)] for parameter in group["params"]]
        for group in state.optimizer.param_groups
    ]
    if [len(group) for group in mine] != [len(group) for group in groups]:
        sizes = " and ".join(str([len(group) for group in numbers]) for numbers in (groups, mine))
        raise InputError(
            f"{path}: optimizer: groups of other sizes than the recipe's: {sizes} parameters"
        )
    _begin(state)
    expected = expected_shapes(recipe, data, 1, 0)
    found: Parameters = {}
    numbered = [
        (i, name) for numbers, group in zip(groups, mine) for i, name in zip(numbers, group)
    ]
    extra = saved["state"].keys() - {i for i, _ in numbered}
    if extra:
        raise InputError(
            f"{path}: optimizer: extra: parameters {', '.join(sorted(map(str, extra)))}"
        )
    for i, name in numbered:
        own = state.optimizer.state[dict(state.model.named_parameters())[name]]
        for key, value in saved["state"].get(i, {}).items():
            if key == "step":
                steps.add(as_count(f"{path}: optimizer: step of {name}", value))
            elif value is not None:
                slot = _slot_of(recipe, key)
                if key not in own:
                    raise InputError(
                        f"{path}: optimizer: extra: {key} of {name}; "
                        f"{recipe.optimizer.name} has none"
                    )
                # what an optimizer keeps and never reads is left behind
                if f"optimizer/{slot}/{name}" in expected:
                    found[f"optimizer/{slot}/{name}"] = _array(path, f"{key} of {name}", value)
    return found


def _numbered_groups(path: Path, saved: Any) -> list[list[int]]:
    """The parameters' numbers, group by group, of what must be an optimizer's state_dict."""
    held: dict[str, Any] = saved if isinstance(saved, dict) else {}
    groups, states = held.get("param_groups"), held.get("state")
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


def _array(path: Path, name: str, tensor: Any) -> Any:
    """The tensor in NumPy, a view: nothing is copied before its shape is known to be the
    recipe's.
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
    return tensor.detach().cpu().numpy().T
