"""Many members trained at once: how they are cut into blocks, what they are fed, and what they
became.
"""

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
from lockstep.tensor_file import arrays_below, read_tensors, write_tensors

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
"""Numbers that the batches of a block loaded at once may have."""


@dataclass(frozen=True)
class Ensemble:
    """What S members became; metrics are named as in `lockstep.records.trace.metric_names`, without
    "held_out_".

    `header` has `backend`, `recipe_hash`, `updates`, `updates_per_epoch`, `chunk` (members trained
    at once), `environment` and, where members were trained one after another, the `reason`.
    """

    header: dict[str, Any]
    lr_T: NDArray[Any]
    loss_ST: NDArray[Any]
    held_out: dict[str, NDArray[np.float64]]
    """Metric -> its value at the end of each epoch (S, E)."""
    parameters: Parameters
    """Canonical name -> the members' final parameters (S, ...), and running statistics where there
    are any.
    """

    def member(self, s: int) -> Parameters:
        """The final parameters of one."""
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
            InputError: not there, truncated, of another schema version, or with fields or arrays
                that are missing, extra or wrong; names them.
        """
        header, arrays = read_tensors(path, SCHEMA)
        check_ensemble(str(path), header, arrays)
        held_out = arrays_below(arrays, "held_out/")
        parameters = arrays_below(arrays, "parameters/")
        return Ensemble(header, arrays["lr"], arrays["loss"], held_out, parameters)


@dataclass(frozen=True)
class Block:
    """What the members of a block became; shapes as in `Ensemble`."""

    lr_T: NDArray[Any]
    loss_ST: NDArray[Any]
    held_out: list[list[Metrics]]
    """Of each epoch, of each member."""
    parameters: Parameters

    @staticmethod
    def of(trace: Trace) -> "Block":
        """A block of the one member that was trained alone."""
        names = [
            name.removeprefix("held_out_")
            for name in metric_names(trace.recipe.loss)
            if "held_out" in name
        ]
        series = {name: trace.metric(f"held_out_{name}") for name in names}
        epochs: list[list[Metrics]] = [
            [dict(zip(series, values))] for values in zip(*series.values())
        ]
        parameters = {
            name: array[None]
            for name, array in trace.parameters(trace.recorded_updates[-1]).items()
        }
        return Block(trace.series("lr"), trace.series("loss")[None], epochs, parameters)


class Tally:
    """Tells how many updates of all members are done, whichever thread did them."""

    def __init__(self, members: Sequence[PreparedData], progress: Progress | None) -> None:
        self.done, self.total = 0, len(members) * members[0].updates
        self.progress, self.lock = progress, threading.Lock()

    def add(self, updates: int) -> None:
        """So many more are done; what fills up the last block is not told."""
        with self.lock:
            self.done = min(self.done + updates, self.total)
            if self.progress:
                self.progress(self.done, self.total)


def blocks_of(
    members: Sequence[PreparedData], chunk: int, workers: int = 1
) -> list[list[PreparedData]]:
    """The members in blocks of one size, at most `chunk`, as many for each worker where there are
    members enough. The last block is filled up with its last member, so that nothing is compiled
    twice.

    Args:
        members: S data that differ only in initial parameters, order and dropout masks.
        chunk: the most members in a block.
        workers: how many train blocks side by side.

    Raises:
        InputError: no members, or members whose rows or sizes differ.
    """
    if not members:
        raise InputError("an ensemble needs a member")
    first = members[0]
    for member in members[1:]:
        for name in ("train_x_ND", "train_y_N", "held_out_x_ND", "held_out_y_N"):
            a, b = getattr(first, name), getattr(member, name)
            if a is not b and not np.array_equal(a, b):
                raise InputError(f"an ensemble's members must have the same rows: {name} differs")
        if (first.batch, first.epochs, first.hidden) != (
            member.batch,
            member.epochs,
            member.hidden,
        ):
            raise InputError("an ensemble's members must have the same batches, epochs and layers")
    rounds = -(-len(members) // (chunk * workers))
    size = -(-len(members) // min(rounds * workers, len(members)))
    found = [list(members[begin : begin + size]) for begin in range(0, len(members), size)]
    found[-1] += [members[-1]] * (size - len(found[-1]))
    return found


def default_chunk(members: Sequence[PreparedData], most: int) -> int:
    """How many members to train at once: `most`, or fewer where they have many parameters."""
    return max(
        1, min(most, ROOM // sum(array.size for array in members[0].parameters.values()) // 4)
    )


def stack(recipe: Recipe, members: Sequence[PreparedData]) -> PreparedData:
    """One data of the recipe's dtype, with the members' initial parameters (S, ...) and the rows
    that they share.
    """
    first = members[0]
    stacked = {
        name: np.stack([member.parameters[name] for member in members]) for name in first.parameters
    }
    data = replace(first, parameters=stacked)
    data.__dict__["hash"] = ""  # it stands for no run
    return data.cast(recipe.dtype)


def stack_batches(
    members: Sequence[PreparedData], epoch: int
) -> tuple[Batches, list[NDArray[np.bool_]]]:
    """The batches of an epoch, with rows and weights (T, S, B), and the dropout masks (T, S, B,
    units).
    """
    drawn = [member.batches(epoch) for member in members]
    rows_TSB = np.stack([batches.rows_TB for batches in drawn], axis=1)
    weight_TSB = np.broadcast_to(drawn[0].weight_TB[:, None], rows_TSB.shape)
    masks = [np.stack(layer, axis=1) for layer in zip(*(member.masks(epoch) for member in members))]
    return Batches(rows_TSB, weight_TSB, *drawn[0][2:]), masks


def stretches(
    members: Sequence[PreparedData],
) -> Iterator[tuple[Batches, list[NDArray[np.bool_]], bool]]:
    """What the members are fed, in stretches that there is memory for: batches, masks, and whether
    the epoch ends.
    """
    data = members[0]
    size = len(members) * data.batch * (data.train_x_ND.shape[1] + data.outputs + sum(data.hidden))
    many = max(1, ROOM // size)
    for epoch in range(data.epochs):
        batches, masks = stack_batches(members, epoch)
        for begin in range(0, data.batches_per_epoch, many):
            cut = slice(begin, begin + many)
            ends = begin + many >= data.batches_per_epoch
            yield (
                Batches._make(array[cut] for array in batches),
                [mask[cut] for mask in masks],
                ends,
            )


def one_by_one(
    train: Callable[..., Trace],
    recipe: Recipe,
    members: Sequence[PreparedData],
    progress: Progress | None,
    reason: str,
) -> Ensemble:
    """The ensemble of members that `train` trained one after another, and why."""
    blocks, tally = [], Tally(members, progress)
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
    """The ensemble of all blocks, without what filled up the last one; `header` are more of its
    fields.
    """
    data, count = members[0], len(members)
    held_out = {
        name: np.concatenate(
            [[[m[name] for m in epoch] for epoch in block.held_out] for block in blocks], axis=1
        )
        for name in blocks[0].held_out[0][0]
    }
    header = {
        "recipe_hash": recipe.hash,
        "updates": data.updates,
        "updates_per_epoch": data.updates_per_epoch,
        "chunk": len(blocks[0].loss_ST),
        **header,
    }
    return Ensemble(
        header,
        blocks[0].lr_T,
        np.concatenate([block.loss_ST for block in blocks])[:count],
        {name: array_ES.T[:count] for name, array_ES in held_out.items()},
        {
            name: np.concatenate([block.parameters[name] for block in blocks])[:count]
            for name in blocks[0].parameters
        },
    )
