"""A run's state to and from the files that people save with this framework."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from jax_impl.io.checkpoint import _keys, _name, _sections, export_state, import_state
from jax_impl.train import initial_state
from jax_impl.update import State
from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.files.input_file import input_size, parsing, read_input
from lockstep.files.memory import in_bytes
from lockstep.files.outputs import NEW, write_file
from lockstep.files.partial import new_folder
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, expected_shapes
from lockstep.records.convert import as_count, largest_state

__all__ = ["read", "write"]

TREES = {
    "params": "parameters",
    "batch_stats": "statistics",
    "opt_state": "optimizer",
    "average": "average",
}
"""What Flax calls the parts of a state, and what a checkpoint does."""
ORBAX_MARKS = ("_METADATA", "_CHECKPOINT_METADATA")


def read(path: Path, recipe: Recipe, data: PreparedData) -> tuple[Parameters, int | None]:
    """The arrays of a file, named as in a checkpoint, and the updates done, where the file says.

    A tree of the parameters, in an Orbax folder or in .msgpack, or of {"params": ...,
    "batch_stats": ...,
    "opt_state": ..., "average": ...}.

    Raises:
        InputError: not readable, or names that are not the recipe's.
    """
    found = _load(path, largest_state(recipe, data))
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not a tree of names")
    if "params" not in found:
        found = {"params": found}
    unknown = found.keys() - TREES.keys() - {"update"}
    if unknown:
        raise InputError(f"{path}: extra: {', '.join(sorted(map(str, unknown)))}")
    steps = {as_count(f"{path}: update", found["update"])} if "update" in found else set()
    arrays: Parameters = {}
    # what an optimizer keeps and never reads is left behind
    with jax.enable_x64(recipe.training.dtype == "float64"):
        unread = (
            export_state(recipe, _initial(recipe, data)).keys()
            - expected_shapes(recipe, data, 1, 1).keys()
        )
    for tree in TREES.keys() & found.keys():
        for keys, leaf in _leaves(found[tree]):
            name = _name(recipe, TREES[tree], keys)
            if name is None:
                steps.add(as_count(f"{path}: {tree}/{'/'.join(keys)}", leaf))
            elif not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
                raise InputError(
                    f"{path}: {tree}/{'/'.join(keys)}: a {type(leaf).__name__}, not an array"
                )
            elif name in arrays:
                raise InputError(
                    f"{path}: ambiguous: {tree}/{'/'.join(keys)} is {name}, as another is"
                )
            elif name not in unread:
                arrays[name] = np.asarray(leaf)
    if len(steps) > 1:
        raise InputError(
            f"{path}: parameters of different ages: {', '.join(map(str, sorted(steps)))} updates"
        )
    return arrays, steps.pop() if steps else None


def write(path: Path, recipe: Recipe, data: PreparedData, checkpoint: Checkpoint) -> None:
    """Write {"params", "opt_state", "update"}, with "batch_stats" and "average" where there are
    any, or of a model alone its "params" and "batch_stats".

    Raises:
        InputError: the file cannot be written.
    """
    with jax.enable_x64(recipe.training.dtype == "float64"):
        state = import_state(recipe, _initial(recipe, data), checkpoint)
        parts = {name: _nested(_sections(state)[section]) for name, section in TREES.items()}
    content: dict[str, Any] = {name: tree for name, tree in parts.items() if tree}
    if checkpoint.header.get("model_only"):
        content = {
            name: tree for name, tree in content.items() if name in ("params", "batch_stats")
        }
    else:
        content["update"] = np.int64(checkpoint.update)
    if path.suffix:
        write_file(path, serialization.msgpack_serialize(content), NEW)
    else:
        with new_folder(path.absolute()) as folder:
            ocp.PyTreeCheckpointer().save(folder.partial, content, force=True)


def _initial(recipe: Recipe, data: PreparedData) -> State:
    return initial_state(recipe, data.cast(recipe.dtype), jax.devices("cpu")[0])


def _load(path: Path, largest: int) -> Any:
    # msgpack and Orbax have error types of their own; all mean an unreadable file
    if not path.is_dir():
        content = read_input(path, largest)
        with parsing(path, "not a readable Flax tree"):
            return serialization.msgpack_restore(content)
    with parsing(path, "not a readable Flax tree"):
        return _read_orbax(path, largest)


def _read_orbax(path: Path, largest: int) -> Any:
    _refuse_irregular(path)
    reader = ocp.PyTreeCheckpointer()
    tree = reader.metadata(path.resolve()).item_metadata.tree
    declared = sum(8 * prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    if declared > largest:
        raise InputError(
            f"{path}: holds {in_bytes(declared)}, and this recipe's state at most "
            f"{in_bytes(largest)}"
        )
    # in NumPy: as JAX arrays, float64 would be rounded
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return reader.restore(path.resolve(), restore_args=arguments)


def _refuse_irregular(path: Path) -> None:
    """Raise where a folder is no checkpoint of Orbax, or has anything in it but folders and
    ordinary files.
    """
    if not any((path / name).is_file() for name in ORBAX_MARKS):
        raise ValueError(f"no checkpoint of Orbax, which has {' or '.join(ORBAX_MARKS)}")
    for place in path.rglob("*"):
        if not place.is_dir():
            input_size(place)


def _nested(tree: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *above, last = _keys(path)
        place = found
        for key in above:
            place = place.setdefault(key, {})
        place[last] = np.asarray(leaf)
    return found


def _leaves(tree: Any, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping):
        return [leaf for key, below in tree.items() for leaf in _leaves(below, (*above, str(key)))]
    return [(above, tree)]
