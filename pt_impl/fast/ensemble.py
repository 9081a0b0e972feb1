"""Many members of one recipe trained at once.

They differ in initial parameters, order and dropout masks alone.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lockstep.data_prep import Batches, PreparedData
from lockstep.recipe import Recipe
from lockstep.records.ensemble import (
    Block,
    Ensemble,
    Tally,
    blocks_of,
    default_chunk,
    gather,
    stack,
    stretches,
)
from lockstep.records.trace import Metrics, Progress, metrics_of
from pt_impl.fast import batches as fast_batches
from pt_impl.fast import train as fast
from pt_impl.fast.batches import Batch, load_rows
from pt_impl.io.device import describe_environment, select_device
from pt_impl.loss import mean_loss, sums

__all__ = [
    "initial_state",
    "load_batches",
    "make_evaluation",
    "make_segment",
    "train_ensemble",
]

CHUNK = 128
"""Members of a block. 256 members of W1 in blocks of 128 take 0.9 of the time of blocks of 64, for
they make fewer calls."""

THREADS = 2
"""Blocks trained at once. To share one operation among threads costs more than it saves."""


def initial_state(recipe: Recipe, data: PreparedData, device: torch.device) -> fast.State:
    """The state of S members before the first update; `data` is their `ensemble.stack`."""
    return fast.initial_state(recipe, data, device)


def load_batches(
    recipe: Recipe,
    data: PreparedData,
    batches: Batches,
    masks: Sequence[NDArray[np.bool_]],
    device: torch.device,
) -> list[Batch]:
    """The batches of `lockstep.records.ensemble.stack_batches` on the device."""
    return fast_batches.load_batches(recipe, data, batches, masks, device)


def make_segment(
    recipe: Recipe,
) -> Callable[[fast.State, list[Batch]], tuple[fast.State, dict[str, Tensor]]]:
    """Consecutive batches of S members: (state, batches) -> state, {"lr": (T,), "loss": (T, S)}.

    `recipe` is an `update_rule`.
    """
    return fast.make_segment(recipe, ("lr", "loss"))


def make_evaluation(recipe: Recipe) -> Callable[[fast.State, fast.Rows], list[Metrics]]:
    """(state, held-out rows) -> the metrics of each member; `recipe` is an `update_rule`."""

    @torch.no_grad()
    def evaluation(state: fast.State, held_out: fast.Rows) -> list[Metrics]:
        x_ND, y_N = held_out
        *_, outputs_SNK = state.network.outputs(x_ND).values()
        metrics = []
        for outputs_NK in outputs_SNK:
            mean = mean_loss(recipe.loss, outputs_NK, y_N, len(y_N))
            metrics.append(metrics_of(mean, sums(recipe.loss, outputs_NK, y_N)))
        return metrics

    return evaluation


def train_ensemble(
    recipe: Recipe,
    members: Sequence[PreparedData],
    *,
    device: str = "cpu",
    chunk: int = 0,
    progress: Progress | None = None,
) -> Ensemble:
    """Train S members of a recipe at once; each becomes what it becomes alone.

    Args:
        recipe: what to train.
        members: data of the same rows, which differ in initial parameters, order and dropout masks.
        device: "cpu", "gpu" or "auto".
        chunk: how many to train at once, which bounds the memory; 0: as many as measured best.
        progress: called with the number of updates so far, of all members.

    Raises:
        InputError: the members' rows or sizes differ, or there is no such device.
    """
    place = select_device(device)
    tally = Tally(members, progress)
    environment = describe_environment(place)
    workers = THREADS if place.type == "cpu" else 1
    blocks = blocks_of(members, chunk or default_chunk(members, CHUNK), workers)
    threads = min(workers, len(blocks))
    before = torch.get_num_threads()
    with ThreadPoolExecutor(
        threads, initializer=torch.set_num_threads, initargs=(max(1, THREADS // threads),)
    ) as pool:
        try:
            trained = list(pool.map(partial(_train_block, recipe, place, tally), blocks))
        finally:
            torch.set_num_threads(before)
    return gather(recipe, members, trained, backend="torch", environment=environment)


def _train_block(
    recipe: Recipe, place: torch.device, tally: Tally, block: Sequence[PreparedData]
) -> Block:
    data = stack(recipe, block)
    held_out = load_rows(recipe.loss, data.held_out_x_ND, data.held_out_y_N, place)
    state = initial_state(recipe, data, place)
    segment = make_segment(recipe.update_rule)
    evaluate = make_evaluation(recipe.update_rule)
    parts = []
    metrics = []
    for batches, masks, ends in stretches(block):
        state, scalars = segment(state, load_batches(recipe, data, batches, masks, place))
        last_T = torch.from_numpy(batches.last_T)
        parts.append({name: values[last_T].cpu().numpy() for name, values in scalars.items()})
        tally.add(len(block) * int(batches.last_T.sum()))
        if ends:
            metrics.append(evaluate(state, held_out))
    lr_T = np.concatenate([part["lr"] for part in parts])
    loss_TS = np.concatenate([part["loss"] for part in parts])
    return Block(lr_T, loss_TS.T, metrics, fast.parameters_of(recipe, state))
