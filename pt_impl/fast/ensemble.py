"""Many members of one recipe trained at once: they differ in initial parameters, order and dropout
masks alone.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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

CHUNK, THREADS = 128, 2
"""Members trained at once, and blocks: two threads share no operation, which costs more than it
saves. 256 members of W1 take in blocks of 128 0.9 of their time in blocks of 64: there are fewer
calls."""


def initial_state(recipe: Recipe, data: PreparedData, device: torch.device) -> fast.State:
    """The state of S members before the first update; `data` is a
    `lockstep.records.ensemble.stack`.
    """
    return fast.initial_state(recipe, data, device)


def load_batches(
    recipe: Recipe,
    data: PreparedData,
    batches: Batches,
    masks: Sequence[NDArray[np.bool_]],
    device: torch.device,
) -> list[Batch]:
    """Batches as `lockstep.records.ensemble.stack_batches` gives them, on the device."""
    return fast_batches.load_batches(recipe, data, batches, masks, device)


def make_segment(recipe: Recipe) -> Any:
    """Consecutive batches of S members: (state, batches) -> state, "lr" (T,) and "loss" (T, S) of
    each; `recipe` is an `update_rule`."""
    return fast.make_segment(recipe, ("lr", "loss"))


def make_evaluation(recipe: Recipe) -> Any:
    """(state, held-out rows) -> the metrics of each member; `recipe` is an `update_rule`."""

    @torch.no_grad()
    def evaluation(state: fast.State, held_out: Any) -> list[Metrics]:
        x_ND, y_N = held_out
        *_, outputs_SNK = state.network.outputs(x_ND).values()
        return [
            metrics_of(
                mean_loss(recipe.loss, outputs_NK, y_N, len(y_N)),
                sums(recipe.loss, outputs_NK, y_N),
            )
            for outputs_NK in outputs_SNK
        ]

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
        progress: told how many updates of all members are done.

    Raises:
        InputError: members whose rows or sizes differ; a device that is not there.
    """
    place, tally = select_device(device), Tally(members, progress)
    environment = describe_environment(place)
    workers = THREADS if place.type == "cpu" else 1
    blocks = blocks_of(members, chunk or default_chunk(members, CHUNK), workers)
    threads = min(workers, len(blocks))
    before = torch.get_num_threads()
    with ThreadPoolExecutor(
        threads, initializer=torch.set_num_threads, initargs=(max(1, THREADS // threads),)
    ) as pool:
        try:
            found = list(pool.map(partial(_train_block, recipe, place, tally), blocks))
        finally:
            torch.set_num_threads(before)
    return gather(recipe, members, found, backend="torch", environment=environment)


def _train_block(
    recipe: Recipe, place: torch.device, tally: Tally, block: Sequence[PreparedData]
) -> Block:
    data, rule = stack(recipe, block), recipe.update_rule
    held_out = load_rows(recipe.loss, data.held_out_x_ND, data.held_out_y_N, place)
    state, segment, evaluate = (
        initial_state(recipe, data, place),
        make_segment(rule),
        make_evaluation(rule),
    )
    scalars, metrics = [], []
    for batches, masks, ends in stretches(block):
        state, found = segment(state, load_batches(recipe, data, batches, masks, place))
        scalars.append(
            {
                name: values[torch.from_numpy(batches.last_T)].cpu().numpy()
                for name, values in found.items()
            }
        )
        tally.add(len(block) * int(batches.last_T.sum()))
        if ends:
            metrics.append(evaluate(state, held_out))
    lr_T, loss_TS = (np.concatenate([part[name] for part in scalars]) for name in ("lr", "loss"))
    return Block(lr_T, loss_TS.T, metrics, fast.parameters_of(recipe, state))
