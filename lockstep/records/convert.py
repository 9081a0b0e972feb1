"""Between a checkpoint and the files that the frameworks know: what kind a file is, and what must
be in it.
"""

from collections.abc import Callable
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.files.outputs import NEW, check_output
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import (
    Checkpoint,
    check_names,
    expected_shapes,
    make_header,
    position,
)

__all__ = ["KINDS", "as_count", "convert", "kind_of", "largest_state"]

KINDS = {
    ".checkpoint": "lockstep",
    ".pt": "torch",
    ".pth": "torch",
    ".safetensors": "torch",
    ".msgpack": "flax",
    "": "flax",
}
"""File name's end -> what is in it; a Flax tree lies in an Orbax folder, without an end, or in one
msgpack file.
"""
ROOM, TIMES = 2**26, 8
"""A file of a state may hold so many bytes, or so many times those of the recipe's state if that is
more.
"""
TWINS = {"torch": ("pt_impl.io.convert", "torch"), "flax": ("jax_impl.io.convert", "jax")}


def kind_of(path: Path) -> str:
    """lockstep, torch or flax, by the file name's end.

    Raises:
        InputError: another end.
    """
    if path.suffix not in KINDS:
        ends = ", ".join(end for end in KINDS if end)
        raise InputError(
            f"{path}: must end in {ends}, or be an Orbax folder, whose name has no end"
        )
    return KINDS[path.suffix]


def convert(
    source: Path,
    out: Path,
    recipe: Recipe | None,
    prepare: Callable[[Recipe], PreparedData],
    update: int | None,
) -> Checkpoint:
    """Read a checkpoint of one kind and write it as another; bits are kept, kernels turned, names
    checked.

    Args:
        source: what to read; its name's end says the kind.
        out: what to write, likewise; one that exists is kept.
        recipe: what is trained; needed where the source is no lockstep checkpoint, which holds it.
        prepare: the recipe's data, for the names, the position and the hash.
        update: optimizer updates done, where the source does not say.

    Raises:
        InputError: files that cannot be read or written, names that are missing, extra or
        ambiguous, another recipe.
    """
    kinds = kind_of(source), kind_of(out)
    check_output(out, NEW)
    if not source.exists():
        raise InputError(f"{source}: no such file")
    if kinds[0] == "lockstep":
        checkpoint = Checkpoint.load(source)
        recipe = recipe or checkpoint.recipe
        if recipe.hash != checkpoint.recipe.hash:
            raise InputError(f"{source}: is of another recipe than --recipe")
        data = prepare(recipe)
        place = position(data, checkpoint.batches)
        expected = expected_shapes(recipe, data, place["update"], place["accumulated"])
        check_names(checkpoint.arrays, expected, str(source))
    elif recipe is None:
        raise InputError(f"{source}: does not say what is trained; name it with --recipe RECIPE")
    else:
        data = prepare(recipe)
        arrays, said = _twin(kinds[0]).read(source, recipe, data)
        checkpoint = _assemble(source, recipe, data, arrays, said, update)
    if kinds[1] == "lockstep":
        _refuse_incomplete(checkpoint, recipe, data, source)
        checkpoint.save(out)
    elif checkpoint.accumulated:
        raise InputError(
            f"{source}: is in the midst of an accumulation, for which {out.name} has no place"
        )
    else:
        _twin(kinds[1]).write(out, recipe, data, checkpoint)
    return checkpoint


def largest_state(recipe: Recipe, data: PreparedData) -> int:
    """Bytes of the largest file, expanded, that is read as a state of this recipe."""
    shapes = expected_shapes(recipe, data, 1, 1).values()
    return max(ROOM, TIMES * sum(8 * prod(shape) for shape in shapes))


def as_count(where: str, value: Any) -> int:
    """A number of updates out of a file: a whole number of Python, or an array or tensor of one.

    Raises:
        InputError: anything else.
    """
    try:
        number = value.item() if hasattr(value, "item") else value
        count = int(number)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number, count = None, -1
    if isinstance(number, str | bytes | bool) or count != number or not 0 <= count < 2**63:
        raise InputError(f"{where}: must be a whole number of updates")
    return count


def _assemble(
    source: Path,
    recipe: Recipe,
    data: PreparedData,
    arrays: Parameters,
    said: int | None,
    update: int | None,
) -> Checkpoint:
    """A checkpoint of what was read; of a model alone, one with neither optimizer nor average."""
    if None not in (said, update) and said != update:
        raise InputError(f"{source}: says {said} updates, --update {update}")
    done = said if update is None else update
    model_only = all(name.startswith(("parameters/", "statistics/")) for name in arrays)
    if done is None and not model_only:
        raise InputError(
            f"{source}: does not say how many updates are done; say it with --update N"
        )
    done = done or 0
    if not 0 <= done <= data.updates:
        raise InputError(f"{source}: {done} updates are done, of a run of {data.updates}")
    if (
        done == 0
    ):  # what an optimizer holds before its first update is none of a checkpoint's business
        arrays = {
            name: array for name, array in arrays.items() if not name.startswith("optimizer/")
        }
    expected = expected_shapes(recipe, data, done, 0)
    if model_only:
        expected = {
            name: shape
            for name, shape in expected.items()
            if name.startswith(("parameters/", "statistics/"))
        }
    check_names(arrays, expected, str(source))
    # copied only now that the shapes are the recipe's: a view may be of a size that nothing on disk
    # has
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype != recipe.dtype:
            raise InputError(
                f"{source}: {name}: {array.dtype}, and the recipe's dtype is "
                f"{recipe.training.dtype}"
            )
    epoch, within = divmod(done, data.updates_per_epoch)
    batches = epoch * data.batches_per_epoch + within * data.accumulate
    header = make_header(recipe, data, batches, KINDS[source.suffix])
    return Checkpoint(header | {"model_only": model_only}, arrays)


def _refuse_incomplete(
    checkpoint: Checkpoint, recipe: Recipe, data: PreparedData, source: Path
) -> None:
    expected = expected_shapes(recipe, data, checkpoint.update, checkpoint.accumulated)
    check_names(checkpoint.arrays, expected, f"{source}, to go on from")


def _twin(kind: str) -> Any:
    module, extra = TWINS[kind]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is not installed: pip install 'lockstep[{extra}]'"
        ) from None
