"""Many members trained at once: their blocks, their batches, and the file of their results."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Batches, Parameters, PreparedData
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.contents import check_ensemble
from lockstep.records.trace import Metrics, Progress, Trace, metric_names
from lockstep.tensor_file import Header, arrays_below, read_tensors, write_tensors

__all__ = [
    "Block",
    "Ensemble",
    "Tally",
    "blocks_of",
    "default_chunk",
    "gather",
    "one_by_one",
    "stack",
    "stack_batches",
    "stretches",
]

SCHEMA = "lockstep.ensemble/1"
ROOM = 2**23
"""Numbers that may be in memory at once for the batches of a block."""


@dataclass(frozen=True)
class Ensemble:
    """The results of S members.

    `header` has `backend`, `recipe_hash`, `updates`, `updates_per_epoch`, `chunk` (members trained
    at once), `environment` and, where members were trained one after another, the `reason`.
    """

    header: Header
    lr_T: NDArray[Any]
    """The learning rate of each update, shape (T,)."""
    loss_ST: NDArray[Any]
    """The loss before each update, shape (S, T)."""
    held_out: dict[str, NDArray[np.float64]]
    """Metric -> its value at each epoch's end, shape (S, E). The names are those of
    `lockstep.records.trace.metric_names` without "held_out_"."""
    parameters: Parameters
    """Canonical name -> the members' final parameters, or running statistics, shape (S, ...)."""

    def member(self, s: int) -> Parameters:
        """The final parameters of member `s`, by canonical name."""
        return {name: array[s] for name, array in self.parameters.items()}

    def save(self, path: Path) -> None:
        """Write to one file.

        Raises:
            InputError: the file cannot be written.
        """
        arrays = {"lr": self.lr_T, "loss": self.loss_ST}
        arrays |= {f"held_out/{name}": array for name, array in self.held_out.items()}
        arrays |= {f"parameters/{name}": array for name, array in self.parameters.items()}
        write_tensors(path, SCHEMA, self.header, arrays)

    @staticmethod
    def load(path: Path) -> "Ensemble":
        """Read what `save` wrote, and check that its arrays fit its header.

        Raises:
            InputError: the file is missing, truncated or of another schema version; or a field or
                an array is missing, extra or wrong.
        """
        header, arrays = read_tensors(path, SCHEMA)
        check_ensemble(str(path), header, arrays)
        held_out = arrays_below(arrays, "held_out/")
        parameters = arrays_below(arrays, "parameters/")
        return Ensemble(header, arrays["lr"], arrays["loss"], held_out, parameters)


@dataclass(frozen=True)
class Block:
    """The results of a block's members; shapes as in `Ensemble`."""

    lr_T: NDArray[Any]
    loss_ST: NDArray[Any]
    held_out: list[list[Metrics]]
    """The metrics of each epoch, and in it of each member."""
    parameters: Parameters

    @staticmethod
    def of(trace: Trace) -> "Block":
        """The block of one member that was trained alone."""
        series = {}
        for name in metric_names(trace.recipe.loss):
            if name.startswith("held_out_"):
                series[name.removeprefix("held_out_")] = trace.metric(name)
        epochs: list[list[Metrics]] = [
            [dict(zip(series, values))] for values in zip(*series.values())
        ]
        final = trace.parameters(trace.recorded_updates[-1])
        parameters = {name: array[None] for name, array in final.items()}
        return Block(trace.series("lr"), trace.series("loss")[None], epochs, parameters)


class Tally:
    """Reports how many updates of all members are done, whichever thread did them."""

    def __init__(self, members: Sequence[PreparedData], progress: Progress | None) -> None:
        self.done = 0
        self.total = len(members) * members[0].updates
        self.progress = progress
        self.lock = threading.Lock()

    def add(self, updates: int) -> None:
        """Count more updates; those of the members that fill up the last block do not count."""
        with self.lock:
            self.done = min(self.done + updates, self.total)
            if self.progress:
                self.progress(self.done, self.total)


def blocks_of(
    members: Sequence[PreparedData], chunk: int, workers: int = 1
) -> list[list[PreparedData]]:
    """The members in blocks of one size, at most `chunk`.

    Where there are members enough, each worker has equally many blocks. The last block is filled up
    with its last member, so that nothing is compiled twice.

    Args:
        members: S data that differ only in initial parameters, order and dropout masks.
        chunk: the most members in a block.
        workers: workers that train blocks side by side.

    Raises:
        InputError: no members, or members whose rows or sizes differ.
    """
    if not members:
        raise InputError("an ensemble needs a member")
    first = members[0]
    for member in members[1:]:
        for name in ("train_x_ND", "train_y_N", "held_out_x_ND", "held_out_y_N"):
            a = getattr(first, name)
            b = getattr(member, name)
            if a is not b and not np.array_equal(a, b):
                raise InputError(f"an ensemble's members must have the same rows: {name} differs")
        for name in ("batch", "epochs", "hidden"):
            if getattr(first, name) != getattr(member, name):
                raise InputError(
                    "an ensemble's members must have the same batches, epochs and layers"
                )
    rounds = -(-len(members) // (chunk * workers))
    size = -(-len(members) // min(rounds * workers, len(members)))
    blocks = [list(members[begin : begin + size]) for begin in range(0, len(members), size)]
    missing = size - len(blocks[-1])
    blocks[-1] += [members[-1]] * missing
    return blocks


def default_chunk(members: Sequence[PreparedData], most: int) -> int:
    """How many members to train at once: `most`, or fewer where they have many parameters."""
    parameters = sum(array.size for array in members[0].parameters.values())
    return max(1, min(most, ROOM // parameters // 4))


def stack(recipe: Recipe, members: Sequence[PreparedData]) -> PreparedData:
    """The data that the members share, in the recipe's dtype, with the initial parameters of all.

    The parameters have the shape (S, ...).
    """
    first = members[0]
    stacked = {}
    for name in first.parameters:
        stacked[name] = np.stack([member.parameters[name] for member in members])
    data = replace(first, parameters=stacked)
    data.__dict__["hash"] = ""  # it stands for no run
    return data.cast(recipe.dtype)


def stack_batches(
    members: Sequence[PreparedData], epoch: int
) -> tuple[Batches, list[NDArray[np.bool_]]]:
    """The batches of an epoch, and the dropout masks of each hidden layer.

    Rows and weights have the shape (T, S, B), and masks (T, S, B, units).
    """
    drawn = [member.batches(epoch) for member in members]
    rows_TSB = np.stack([batches.rows_TB for batches in drawn], axis=1)
    weight_TSB = np.broadcast_to(drawn[0].weight_TB[:, None], rows_TSB.shape)
    masks_of_members = [member.masks(epoch) for member in members]
    masks = [np.stack(layer, axis=1) for layer in zip(*masks_of_members)]
    return Batches(rows_TSB, weight_TSB, *drawn[0][2:]), masks


def stretches(
    members: Sequence[PreparedData],
) -> Iterator[tuple[Batches, list[NDArray[np.bool_]], bool]]:
    """The batches of the members, their masks, and whether the epoch ends after them.

    Each stretch of batches is short enough for memory.
    """
    data = members[0]
    numbers_a_row = data.train_x_ND.shape[1] + data.outputs + sum(data.hidden)
    many = max(1, ROOM // (len(members) * data.batch * numbers_a_row))
    for epoch in range(data.epochs):
        batches, masks = stack_batches(members, epoch)
        for begin in range(0, data.batches_per_epoch, many):
            stretch = slice(begin, begin + many)
            is_last = begin + many >= data.batches_per_epoch
            batches_of_stretch = Batches._make(array[stretch] for array in batches)
            masks_of_stretch = [mask[stretch] for mask in masks]
            yield batches_of_stretch, masks_of_stretch, is_last


def one_by_one(
    train: Callable[..., Trace],
    recipe: Recipe,
    members: Sequence[PreparedData],
    progress: Progress | None,
    reason: str,
) -> Ensemble:
    """The ensemble of members that `train` trains one after another, for a `reason`."""
    blocks = []
    tally = Tally(members, progress)
    for member in members:
        trace = train(recipe, member)
        blocks.append(Block.of(trace))
        tally.add(member.updates)
    environment = trace.header["environment"]
    return gather(
        recipe, members, blocks, backend=trace.backend, environment=environment, reason=reason
    )


def gather(
    recipe: Recipe, members: Sequence[PreparedData], blocks: Sequence[Block], **header: Any
) -> Ensemble:
    """The ensemble of all blocks, without the members that fill up the last one.

    Args:
        recipe: what was trained.
        members: the S members.
        blocks: their results.
        header: more fields of the header.
    """
    first = blocks[0]
    count = len(members)
    header = {
        "recipe_hash": recipe.hash,
        "updates": members[0].updates,
        "updates_per_epoch": members[0].updates_per_epoch,
        "chunk": len(first.loss_ST),
        **header,
    }
    loss_ST = np.concatenate([block.loss_ST for block in blocks])
    held_out = {}
    for name in first.held_out[0][0]:
        values_ES = np.concatenate([_metric_ES(block, name) for block in blocks], axis=1)
        held_out[name] = values_ES.T[:count]
    parameters = {}
    for name in first.parameters:
        array = np.concatenate([block.parameters[name] for block in blocks])
        parameters[name] = array[:count]
    return Ensemble(header, first.lr_T, loss_ST[:count], held_out, parameters)


def _metric_ES(block: Block, name: str) -> list[list[float]]:
    return [[metrics[name] for metrics in epoch] for epoch in block.held_out]
