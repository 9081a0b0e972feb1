"""A checkpoint: the state of a run between two batches, in a file that every backend can resume.

Its arrays have canonical names and the layout (in, out). Floats are in the run's dtype, and in
float64 where the oracle wrote them.

| name | what |
|---|---|
| `parameters/<name>` | the parameters |
| `statistics/<name>` | running statistics of the normalisation |
| `optimizer/<slot>/<name>` | a slot of the optimizer, from the first update on |
| `average/<name>` | the moving average of the parameters as it is kept, before debiasing |
| `accumulated/<name>` | share of the gradient so far, in the midst of an accumulation |
| `accumulated/loss` | share of the loss so far, in the midst of an accumulation |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Parameters, PreparedData, Shapes
from lockstep.errors import InputError
from lockstep.files.outputs import tensor_kind
from lockstep.recipe import Recipe
from lockstep.recipe.wording import differing_fields
from lockstep.records.contents import check_checkpoint, checkpoint_shapes, without_row_axis
from lockstep.tensor_file import Arrays, Header, arrays_below, read_tensors, write_tensors
from lockstep.version import __version__

__all__ = [
    "CHECKPOINT",
    "Checkpoint",
    "Checkpoints",
    "as_stored",
    "check_names",
    "expected_shapes",
    "file_beside",
    "make_checkpoint",
    "make_header",
    "places_due",
    "position",
]

SCHEMA = "lockstep.checkpoint/1"
CHECKPOINT = tensor_kind("lockstep.checkpoint")
NAMED = 5
"""Names in a message; more are counted."""
POSITION = ("update", "epoch", "batch", "accumulated")
"""The fields of a header that follow from the number of batches done."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of one run.

    `header` holds `backend`, `recipe` (nested dict), `recipe_hash`, `data_hash` and `lockstep` (the
    version), and the position:

    - `update`: optimizer updates done;
    - `batches`: batches done in all;
    - `epoch`: the epoch, counted from 0, and `batch`: batches done within it;
    - `accumulated`: batches done of the update under way.
    """

    header: Header
    arrays: dict[str, NDArray[Any]]

    @property
    def recipe(self) -> Recipe:
        """The recipe that is trained."""
        return Recipe.from_dict(self.header["recipe"])

    @property
    def update(self) -> int:
        """Optimizer updates done."""
        return int(self.header["update"])

    @property
    def batches(self) -> int:
        """Batches done in all."""
        return int(self.header["batches"])

    @property
    def accumulated(self) -> int:
        """Batches done of the update under way."""
        return int(self.header["accumulated"])

    def below(self, prefix: str) -> Parameters:
        """The arrays below "parameters", "optimizer/momentum", ..., by canonical name."""
        return arrays_below(self.arrays, f"{prefix}/")

    def save(self, path: Path) -> None:
        """Write the checkpoint; an old file of that name stays whole if that fails.

        Raises:
            InputError: the file cannot be written.
        """
        write_tensors(path, SCHEMA, self.header, self.arrays)

    @staticmethod
    def load(path: Path) -> "Checkpoint":
        """Read a checkpoint, and check that it holds what its recipe says.

        Raises:
            InputError: the file is missing, truncated or of another schema version; or a field or
                an array is missing, wrong, or of another shape or dtype than the recipe's.
        """
        header, arrays = read_tensors(path, SCHEMA)
        check_checkpoint(str(path), header, arrays)
        return Checkpoint(header, arrays)

    def refuse_other_run(self, recipe: Recipe, data: PreparedData) -> None:
        """Raise InputError unless a run of this recipe on this data can resume from here.

        Raises:
            InputError: another recipe, other data, a finished run, or names that are missing or
                extra.
        """
        if self.header["recipe_hash"] != recipe.hash:
            differing = differing_fields(self.recipe.as_dict(), recipe.as_dict())
            raise InputError(f"the checkpoint is of another recipe: {differing}")
        if self.header["data_hash"] != data.hash:
            raise InputError(
                f"the checkpoint is of other data: hash {self.header['data_hash'][:12]}, and "
                f"{data.hash[:12]} here; same recipe, but other rows, initial parameters or order"
            )
        stored_position = {name: self.header[name] for name in POSITION}
        if stored_position != position(data, self.batches):
            raise InputError(
                f"the checkpoint's position does not fit the run: {self.batches} batches done"
            )
        if self.batches >= data.epochs * data.batches_per_epoch:
            raise InputError(
                f"the checkpoint is of a finished run: all {data.updates} updates are done"
            )
        expected = expected_shapes(recipe, data, self.update, self.accumulated)
        check_names(self.arrays, expected, "the checkpoint")


class Checkpoints(NamedTuple):
    """How often to write a checkpoint, counted in updates or in batches, and where it goes."""

    every: int
    unit: Literal["update", "batch"]
    save: Callable[[Checkpoint], None]


def position(data: PreparedData, batches: int) -> dict[str, int]:
    """The fields `POSITION` of a header after that many batches."""
    epoch, batch = divmod(batches, data.batches_per_epoch)
    update, accumulated = divmod(batch, data.accumulate)
    return {
        "update": epoch * data.updates_per_epoch + update,
        "epoch": epoch,
        "batch": batch,
        "accumulated": accumulated,
    }


def places_due(data: PreparedData, every: int, unit: str, begun: int) -> list[dict[str, int]]:
    """The positions at which a run that begins after `begun` batches writes its checkpoints.

    Args:
        data: what is trained on.
        every: the units between two checkpoints.
        unit: "update" or "batch".
        begun: batches done before the run.
    """
    if unit == "batch":
        batches = data.epochs * data.batches_per_epoch
        due = range(every, batches + 1, every)
        return [position(data, batch) for batch in due if batch > begun]
    first = position(data, begun)["update"]
    due = range(every, data.updates + 1, every)
    return [{"update": update, "accumulated": 0} for update in due if update > first]


def file_beside(trace: Path, update: int, accumulated: int) -> Path:
    """The checkpoint's file beside a run's trace: t.100.checkpoint, or t.100+1.checkpoint."""
    place = f"{update}+{accumulated}" if accumulated else f"{update}"
    return trace.with_name(f"{trace.stem}.{place}.checkpoint")


def make_header(recipe: Recipe, data: PreparedData, batches: int, backend: str) -> Header:
    """The header of a checkpoint after that many batches."""
    return {
        "backend": backend,
        "recipe": recipe.as_dict(),
        "recipe_hash": recipe.hash,
        "data_hash": data.hash,
        "lockstep": __version__,
        "batches": batches,
        **position(data, batches),
    }


def make_checkpoint(
    recipe: Recipe,
    data: PreparedData,
    batches: int,
    backend: str,
    arrays: Arrays,
) -> Checkpoint:
    """The checkpoint of a run after that many batches.

    Args:
        recipe: what is trained.
        data: what it is trained on.
        batches: batches done in all.
        backend: torch, jax or oracle.
        arrays: the state; whatever does not belong into a checkpoint is left out.

    Raises:
        InputError: an array is missing, or of another shape.
    """
    header = make_header(recipe, data, batches, backend)
    expected = expected_shapes(recipe, data, header["update"], header["accumulated"])
    state = {name: np.array(arrays[name]) for name in expected if name in arrays}
    check_names(state, expected, f"the state of {backend}")
    return Checkpoint(header, state)


def expected_shapes(recipe: Recipe, data: PreparedData, update: int, accumulated: int) -> Shapes:
    """Name -> shape of every array of a checkpoint.

    Args:
        recipe: what is trained.
        data: what it is trained on.
        update: updates done.
        accumulated: batches done of the next one.
    """
    shapes = {name: array.shape for name, array in data.parameters.items()}
    return checkpoint_shapes(recipe, shapes, update, accumulated)


def as_stored(moments: Mapping[str, Parameters], parameters: Parameters) -> Parameters:
    """The oracle's moments as a checkpoint names them, `optimizer/<slot>/<name>`.

    Args:
        moments: canonical name of a parameter -> slot -> array; a vector has a row axis of length
            1, which is dropped.
        parameters: canonical name -> array.
    """
    return {
        f"optimizer/{slot}/{name}": without_row_axis(array, parameters[name].ndim)
        for name, slots in moments.items()
        for slot, array in slots.items()
    }


def check_names(arrays: Arrays, expected: Shapes, whose: str) -> None:
    """Raise InputError unless the arrays are floats of the expected names and shapes.

    Raises:
        InputError: names that are missing or extra, or arrays of another shape; names them.
    """
    faults = []
    missing = expected.keys() - arrays.keys()
    extra = arrays.keys() - expected.keys()
    for word, names in (("missing", missing), ("extra", extra)):
        if names:
            listed = ", ".join(sorted(names)[:NAMED])
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            faults.append(f"{word}: {listed}{more}")
    for name in sorted(expected.keys() & arrays.keys()):
        array = arrays[name]
        if array.shape != expected[name]:
            faults.append(f"{name}: shape {array.shape}, expected {expected[name]}")
        elif array.dtype.kind != "f":
            faults.append(f"{name}: {array.dtype}, expected a float")
    if faults:
        raise InputError(f"{whose}: {'; '.join(faults[:NAMED])}")
