"""A run's state to and from the files that people save with this framework."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from jax_impl.io.checkpoint import export_state, import_state, keys_of, name_of, sections_of
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
"""Flax's name of a part of the state -> a checkpoint's."""
ORBAX_MARKS = ("_METADATA", "_CHECKPOINT_METADATA")


def read(path: Path, recipe: Recipe, data: PreparedData) -> tuple[Parameters, int | None]:
    """The arrays of a file, named as in a checkpoint, and its updates; None if it does not tell.

    The file is an Orbax folder or .msgpack. It holds a tree of the parameters, or
    {"params": ..., "batch_stats": ..., "opt_state": ..., "average": ..., "update": ...}, of which
    all but the parameters may be absent.

    Raises:
        InputError: the file cannot be read, or has names that are not the recipe's.
    """
    content = _load(path, largest_state(recipe, data))
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a tree of names")
    if "params" not in content:
        content = {"params": content}
    unknown = content.keys() - TREES.keys() - {"update"}
    if unknown:
        raise InputError(f"{path}: extra: {', '.join(sorted(map(str, unknown)))}")
    steps = set()
    if "update" in content:
        steps.add(as_count(f"{path}: update", content["update"]))
    # an optimizer may hold arrays that it never reads; no checkpoint has them
    with jax.enable_x64(recipe.training.dtype == "float64"):
        exported = export_state(recipe, _initial(recipe, data))
    unread = exported.keys() - expected_shapes(recipe, data, 1, 1).keys()
    arrays: Parameters = {}
    trees = {tree: content[tree] for tree in TREES.keys() & content.keys()}
    for (tree, *keys), leaf in _leaves(trees):
        place = "/".join((tree, *keys))
        name = name_of(recipe, TREES[tree], tuple(keys))
        if name is None:
            steps.add(as_count(f"{path}: {place}", leaf))
            continue
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
            raise InputError(f"{path}: {place}: a {type(leaf).__name__}, not an array")
        if name in arrays:
            raise InputError(f"{path}: ambiguous: {place} is {name}, as another is")
        if name not in unread:
            arrays[name] = np.asarray(leaf)
    if len(steps) > 1:
        ages = ", ".join(map(str, sorted(steps)))
        raise InputError(f"{path}: parameters of different ages: {ages} updates")
    return arrays, steps.pop() if steps else None


def write(path: Path, recipe: Recipe, data: PreparedData, checkpoint: Checkpoint) -> None:
    """Write {"params", "opt_state", "update"}, and "batch_stats" and "average" if there are any.

    A checkpoint of a model alone becomes its "params" and "batch_stats".

    Raises:
        InputError: the file cannot be written.
    """
    with jax.enable_x64(recipe.training.dtype == "float64"):
        state = import_state(recipe, _initial(recipe, data), checkpoint)
        parts = {name: _nested(sections_of(state)[section]) for name, section in TREES.items()}
    is_model_only = checkpoint.header.get("model_only")
    chosen = ("params", "batch_stats") if is_model_only else tuple(TREES)
    content: dict[str, Any] = {name: parts[name] for name in chosen if parts[name]}
    if not is_model_only:
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
    if path.is_dir():
        with parsing(path, "not a readable Flax tree"):
            return _read_orbax(path, largest)
    content = read_input(path, largest)
    with parsing(path, "not a readable Flax tree"):
        return serialization.msgpack_restore(content)


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
    # as NumPy arrays: JAX would round float64
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return reader.restore(path.resolve(), restore_args=arguments)


def _refuse_irregular(path: Path) -> None:
    """Raise unless a folder is a checkpoint of Orbax, made of folders and ordinary files alone.

    Raises:
        ValueError: the folder lacks the marks of Orbax.
        InputError: a file in it is not an ordinary one.
    """
    if not any((path / name).is_file() for name in ORBAX_MARKS):
        raise ValueError(f"no checkpoint of Orbax, which has {' or '.join(ORBAX_MARKS)}")
    for place in path.rglob("*"):
        if not place.is_dir():
            input_size(place)


def _nested(tree: Any) -> dict[str, Any]:
    """The tree as dictionaries in one another, with NumPy arrays as leaves."""
    nested: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *above, last = keys_of(path)
        place = nested
        for key in above:
            place = place.setdefault(key, {})
        place[last] = np.asarray(leaf)
    return nested


def _leaves(tree: Any, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves, each with the keys on the way to it."""
    if not isinstance(tree, Mapping):
        return [(above, tree)]
    leaves = []
    for key, below in tree.items():
        leaves += _leaves(below, (*above, str(key)))
    return leaves
