"""Many members of one recipe trained at once.

They differ in initial parameters, order and dropout masks alone.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from queue import SimpleQueue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jax_impl.fast import batches as fast_batches
from jax_impl.fast import train as fast
from jax_impl.fast.batches import Batch, load_rows
from jax_impl.fast.network import Network
from jax_impl.io.device import describe_environment, select_device
from jax_impl.loss import mean_loss, sums
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

__all__ = [
    "initial_state",
    "load_batches",
    "make_evaluation",
    "make_segment",
    "train_ensemble",
]

CHUNK = 24
"""Members of a block, which one device trains. 256 members of W1 in blocks of 16 to 28 take 0.75 of
the time of blocks of 64, whose numbers a core's own cache does not hold."""


def initial_state(recipe: Recipe, data: PreparedData, device: jax.Device) -> fast.State:
    """The state of S members before the first update; `data` is their `ensemble.stack`."""
    return fast.initial_state(recipe, data, device)


def load_batches(
    recipe: Recipe,
    data: PreparedData,
    batches: Batches,
    masks: Sequence[NDArray[np.bool_]],
    device: jax.Device,
) -> Batch:
    """The batches of `lockstep.records.ensemble.stack_batches` on the device."""
    return fast_batches.load_batches(recipe, data, batches, masks, device)


@cache
def make_segment(
    recipe: Recipe,
) -> Callable[[fast.State, Batch], tuple[fast.State, dict[str, jax.Array]]]:
    """Consecutive batches of S members: (state, batches) -> state, {"lr": (T,), "loss": (T, S)}.

    `recipe` is an `update_rule`.
    """
    member = fast.make_segment(recipe, ("lr", "loss"))

    def segment(state: fast.State, batches: Batch) -> tuple[fast.State, dict[str, jax.Array]]:
        # all members share the counts of updates and the rates
        axes = jax.tree.map(lambda leaf: 0 if _is_own(leaf) else None, state)._replace(tables=None)
        batch_axes: Any = Batch(x=1, y_B=1, used=None, share=None, last=None, masks=1)  # type: ignore[arg-type] # axes, and no arrays
        together = jax.vmap(member, (axes, batch_axes), (axes, {"lr": None, "loss": 1}))
        trained: tuple[fast.State, dict[str, jax.Array]] = together(state, batches)
        return trained

    return jax.jit(segment, donate_argnames="state")


@cache
def make_evaluation(recipe: Recipe) -> Callable[[fast.State, fast.Rows], list[Metrics]]:
    """(state, held-out rows) -> the metrics of each member; `recipe` is an `update_rule`."""
    network = Network(recipe)

    @jax.jit
    def evaluate(parameters: Any, statistics: Any, x_ND: jax.Array, y_N: jax.Array) -> Any:
        def member(parameters: Any, statistics: Any) -> Any:
            *_, outputs_NK = network.outputs(parameters, statistics, x_ND).values()
            mean = mean_loss(recipe.loss, outputs_NK, y_N, len(y_N))
            return mean, sums(recipe.loss, outputs_NK, y_N)

        return jax.vmap(member)(parameters, statistics)

    def evaluation(state: fast.State, held_out: fast.Rows) -> list[Metrics]:
        loss_S, sums_S = jax.device_get(evaluate(state.parameters, state.statistics, *held_out))
        metrics = []
        for loss, *values in zip(loss_S, *sums_S.values()):
            metrics.append(metrics_of(loss, dict(zip(sums_S, values))))
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
    devices = jax.local_devices(backend=place.platform)
    blocks = blocks_of(members, chunk or default_chunk(members, CHUNK), len(devices))
    free: SimpleQueue[jax.Device] = SimpleQueue()
    for one in devices:
        free.put(one)
    with ThreadPoolExecutor(len(devices)) as pool:
        trained = list(pool.map(partial(_train_on_free, recipe, free, tally), blocks))
    return gather(recipe, members, trained, backend="jax", environment=environment)


def _train_on_free(
    recipe: Recipe, free: SimpleQueue[jax.Device], tally: Tally, block: Sequence[PreparedData]
) -> Block:
    """Train a block on a free device. The thread has its own settings of JAX."""
    place = free.get()
    try:
        with jax.enable_x64(recipe.training.dtype == "float64"), jax.default_device(place):
            return _train_block(recipe, place, tally, block)
    finally:
        free.put(place)


def _train_block(
    recipe: Recipe, place: jax.Device, tally: Tally, block: Sequence[PreparedData]
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
        last_T = batches.last_T
        parts.append({name: np.asarray(values)[last_T] for name, values in scalars.items()})
        tally.add(len(block) * int(batches.last_T.sum()))
        if ends:
            metrics.append(evaluate(state, held_out))
    lr_T = np.concatenate([part["lr"] for part in parts])
    loss_TS = np.concatenate([part["loss"] for part in parts])
    return Block(lr_T, loss_TS.T, metrics, fast.parameters_of(recipe, state))


def _is_own(leaf: jax.Array) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.integer)
