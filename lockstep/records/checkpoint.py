"""Where a run stands between two batches: one file that every backend writes, and goes on from.

Arrays of a checkpoint, in canonical names and the layout (in, out); a float in the run's dtype
(float64 in the oracle's):

| name | what |
|---|---|
| `parameters/<name>` | the parameters |
| `statistics/<name>` | running statistics of the normalisation |
| `optimizer/<slot>/<name>` | what the optimizer remembers of a parameter; from the first update on
|
| `average/<name>` | the moving average of the parameters as it is kept, before debiasing |
| `accumulated/<name>`, `accumulated/loss` | shares of gradient and loss so far; in the midst of an
accumulation |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.files.outputs import tensor_kind
from lockstep.recipe import Recipe
from lockstep.recipe.wording import differing_fields
from lockstep.records.contents import check_checkpoint, checkpoint_shapes, without_row_axis
from lockstep.tensor_file import arrays_below, read_tensors, write_tensors
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
NAMED = 5  # names in a message; more are counted


@dataclass(frozen=True)
class Checkpoint:
    """The state of one run.

    `header` holds `backend`, `recipe` (nested dict), `recipe_hash`, `data_hash`, `lockstep`
    (version) and the
    position: `update`, optimizer updates done; `batches`, batches done in all; `epoch`, counted
    from 0, and `batch`, batches done within it; `accumulated`, batches done of the update under
    way.
    """

    header: dict[str, Any]
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
        """Batches done, of the whole run."""
        return int(self.header["batches"])

    @property
    def accumulated(self) -> int:
        """Batches done of the update under way."""
        return int(self.header["accumulated"])

    def below(self, prefix: str) -> Parameters:
        """Name -> array, of "parameters", "optimizer/momentum", ..."""
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
            InputError: not there, truncated, of another schema version, or with fields or arrays
                that are missing, wrong, or of another shape or dtype than follows from the recipe;
                names them.
        """
        header, arrays = read_tensors(path, SCHEMA)
        check_checkpoint(str(path), header, arrays)
        return Checkpoint(header, arrays)

    def refuse_other_run(self, recipe: Recipe, data: PreparedData) -> None:
        """Nothing, for a checkpoint from which a run of this recipe on this data can go on.

        Raises:
            InputError: another recipe, other data, a finished run, or names that are missing or
            extra.
        """
        if self.header["recipe_hash"] != recipe.hash:
            differing = differing_fields(self.recipe.as_dict(), recipe.as_dict())
            raise InputError(f"the checkpoint is of another recipe: {differing}")
        if self.header["data_hash"] != data.hash:
            raise InputError(
                f"the checkpoint is of other data: hash {self.header['data_hash'][:12]}, "
                f"and {data.hash[:12]} here; "
                "same recipe, but other rows, initial parameters or order"
            )
        if position(data, self.batches) != {name: self.header[name] for name in POSITION}:
            raise InputError(
                f"the checkpoint's position does not fit the run: {self.batches} batches done"
            )
        if self.batches >= data.epochs * data.batches_per_epoch:
            raise InputError(
                f"the checkpoint is of a finished run: all {data.updates} updates are done"
            )
        check_names(
            self.arrays,
            expected_shapes(recipe, data, self.update, self.accumulated),
            "the checkpoint",
        )


class Checkpoints(NamedTuple):
    """How often to write a checkpoint, counted in updates or in batches, and where it goes."""

    every: int
    unit: Literal["update", "batch"]
    save: Callable[[Checkpoint], None]


POSITION = ("update", "epoch", "batch", "accumulated")


def position(data: PreparedData, batches: int) -> dict[str, int]:
    """Where a run stands after so many batches, as in a header."""
    epoch, batch = divmod(batches, data.batches_per_epoch)
    update, accumulated = divmod(batch, data.accumulate)
    return {"update": epoch * data.updates_per_epoch + update, "epoch": epoch, "batch": batch,
            "accumulated": accumulated}  # fmt: skip


def places_due(data: PreparedData, every: int, unit: str, begun: int) -> list[dict[str, int]]:
    """Where a run that begins after `begun` batches writes a checkpoint, every so many of a
    unit.
    """
    last, after = data.epochs * data.batches_per_epoch, position(data, begun)["update"]
    if unit == "batch":
        return [
            position(data, batches) for batches in range(every, last + 1, every) if batches > begun
        ]
    return [
        {"update": update, "accumulated": 0}
        for update in range(every, data.updates + 1, every)
        if update > after
    ]


def file_beside(trace: Path, update: int, accumulated: int) -> Path:
    """The checkpoint's file beside a run's trace: t.100.checkpoint, or t.100+1.checkpoint."""
    place = f"{update}+{accumulated}" if accumulated else f"{update}"
    return trace.with_name(f"{trace.stem}.{place}.checkpoint")


def make_header(recipe: Recipe, data: PreparedData, batches: int, backend: str) -> dict[str, Any]:
    """The header of a checkpoint after so many batches."""
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
    arrays: Mapping[str, NDArray[Any]],
) -> Checkpoint:
    """The checkpoint of a run after so many batches; of `arrays` those are kept that belong into
    it.

    Raises:
        InputError: arrays that are missing, or of another shape.
    """
    header = make_header(recipe, data, batches, backend)
    expected = expected_shapes(recipe, data, header["update"], header["accumulated"])
    kept = {name: np.array(arrays[name]) for name in expected if name in arrays}
    check_names(kept, expected, f"the state of {backend}")
    return Checkpoint(header, kept)


def expected_shapes(
    recipe: Recipe, data: PreparedData, update: int, accumulated: int
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array of a checkpoint after so many updates, and batches of the next
    one.
    """
    shapes = {name: array.shape for name, array in data.parameters.items()}
    return checkpoint_shapes(recipe, shapes, update, accumulated)


def as_stored(moments: Mapping[str, Parameters], parameters: Parameters) -> Parameters:
    """The oracle's moments as a checkpoint has them: `optimizer/<slot>/<name>`, without the row
    axis of a vector.

    Args:
        moments: canonical name of a parameter -> slot -> array, a vector with a row axis of length
        1.
        parameters: canonical name -> array.
    """
    return {
        f"optimizer/{slot}/{name}": without_row_axis(array, parameters[name].ndim)
        for name, slots in moments.items()
        for slot, array in slots.items()
    }


def check_names(
    found: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]], whose: str
) -> None:
    """Nothing, where the arrays are those expected.

    Raises:
        InputError: names that are missing or extra, or arrays of another shape; names them.
    """
    faults = []
    for word, names in (
        ("missing", expected.keys() - found.keys()),
        ("extra", found.keys() - expected.keys()),
    ):
        if names:
            listed = ", ".join(sorted(names)[:NAMED]) + (
                f" and {len(names) - NAMED} more" * (len(names) > NAMED)
            )
            faults.append(f"{word}: {listed}")
    for name in sorted(expected.keys() & found.keys()):
        if found[name].shape != expected[name]:
            faults.append(f"{name}: shape {found[name].shape}, expected {expected[name]}")
        elif found[name].dtype.kind != "f":
            faults.append(f"{name}: {found[name].dtype}, expected a float")
    if faults:
        raise InputError(f"{whose}: {'; '.join(faults[:NAMED])}")
