"""Conversion between a checkpoint and the files of the frameworks, whose content is checked."""

from collections.abc import Callable
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, Protocol, cast

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
"""End of a file's name -> what is in it. A Flax tree lies in a msgpack file, or in an Orbax folder,
whose name has no end."""
ROOM = 2**26
"""Bytes that a file of a state may always hold."""
TIMES = 8
"""How many times larger than the recipe's state a file may be, where that is more than `ROOM`."""
MODEL = ("parameters/", "statistics/")
"""The families of arrays that a model holds."""
TWINS = {"torch": ("pt_impl.io.convert", "torch"), "flax": ("jax_impl.io.convert", "jax")}


class _Converter(Protocol):
    """A twin's module that reads and writes the files of its framework."""

    def read(
        self, path: Path, recipe: Recipe, data: PreparedData
    ) -> tuple[Parameters, int | None]: ...

    def write(
        self, path: Path, recipe: Recipe, data: PreparedData, checkpoint: Checkpoint
    ) -> None: ...


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
    """Read a checkpoint of one kind and write it as another.

    The bits are kept, kernels are turned, and names are checked.

    Args:
        source: what to read; the end of its name says its kind.
        out: what to write; likewise. A file that exists is kept.
        recipe: what is trained; needed unless the source is a lockstep checkpoint, which holds it.
        prepare: recipe -> its data, which give the names, the position and the hash.
        update: optimizer updates done, where the source does not say.

    Raises:
        InputError: a file cannot be read or written; names are missing, extra or ambiguous; or the
            source is of another recipe.
    """
    source_kind = kind_of(source)
    out_kind = kind_of(out)
    check_output(out, NEW)
    if not source.exists():
        raise InputError(f"{source}: no such file")
    if source_kind == "lockstep":
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
        arrays, stated = _twin(source_kind).read(source, recipe, data)
        checkpoint = _assemble(source, recipe, data, arrays, _updates_done(source, stated, update))
    if out_kind == "lockstep":
        expected = expected_shapes(recipe, data, checkpoint.update, checkpoint.accumulated)
        check_names(checkpoint.arrays, expected, f"{source}, to go on from")
        checkpoint.save(out)
    elif checkpoint.accumulated:
        raise InputError(
            f"{source}: is in the midst of an accumulation, for which {out.name} has no place"
        )
    else:
        _twin(out_kind).write(out, recipe, data, checkpoint)
    return checkpoint


def largest_state(recipe: Recipe, data: PreparedData) -> int:
    """Bytes, after decompression, of the largest file that is read as a state of this recipe."""
    shapes = expected_shapes(recipe, data, 1, 1).values()
    return max(ROOM, TIMES * sum(8 * prod(shape) for shape in shapes))


def as_count(where: str, value: Any) -> int:
    """A number of updates from a file, as a Python int.

    Args:
        where: the file and the place in it, for the message.
        value: a whole number, or an array or tensor of one element.

    Raises:
        InputError: anything else.
    """
    try:
        number = value.item() if hasattr(value, "item") else value
        count = int(number)
        is_whole = not isinstance(number, str | bytes | bool) and count == number
    except (TypeError, ValueError, OverflowError, RuntimeError):
        is_whole = False
    if not is_whole or not 0 <= count < 2**63:
        raise InputError(f"{where}: must be a whole number of updates")
    return count


def _updates_done(source: Path, stated: int | None, update: int | None) -> int | None:
    """The updates done as the file states them or as --update gives them, which must agree."""
    if stated is not None and update is not None and stated != update:
        raise InputError(f"{source}: says {stated} updates, --update {update}")
    return stated if update is None else update


def _assemble(
    source: Path,
    recipe: Recipe,
    data: PreparedData,
    arrays: Parameters,
    updates_done: int | None,
) -> Checkpoint:
    """The checkpoint with these arrays; a model alone has neither optimizer nor average."""
    model_only = all(name.startswith(MODEL) for name in arrays)
    if updates_done is None and not model_only:
        raise InputError(
            f"{source}: does not say how many updates are done; say it with --update N"
        )
    done = updates_done or 0
    if not 0 <= done <= data.updates:
        raise InputError(f"{source}: {done} updates are done, of a run of {data.updates}")
    if done == 0:  # a checkpoint has no slots before the first update
        arrays = {
            name: array for name, array in arrays.items() if not name.startswith("optimizer/")
        }
    expected = expected_shapes(recipe, data, done, 0)
    if model_only:
        expected = {name: shape for name, shape in expected.items() if name.startswith(MODEL)}
    check_names(arrays, expected, str(source))
    # copied only after this check: a view can be far larger than the file that it comes from
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


def _twin(kind: str) -> _Converter:
    module, extra = TWINS[kind]
    try:
        return cast(_Converter, import_module(module))
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is not installed: pip install 'lockstep[{extra}]'"
        ) from None
