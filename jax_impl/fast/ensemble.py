"""Many members of one recipe trained at once: they differ in initial parameters, order and dropout
masks alone.
"""

from collections.abc import Sequence
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
"""Members trained at once on a device, which trains blocks of its own and waits for no other. 256
members of W1 take in blocks of 16 to 28 0.75 of their time in blocks of 64, whose numbers a core's
own cache does not hold."""


def initial_state(recipe: Recipe, data: PreparedData, device: jax.Device) -> fast.State:
    """The state of S members before the first update; `data` is a
    `lockstep.records.ensemble.stack`.
    """
    return fast.initial_state(recipe, data, device)


def load_batches(
    recipe: Recipe,
    data: PreparedData,
    batches: Batches,
    masks: Sequence[NDArray[np.bool_]],
    device: jax.Device,
) -> Batch:
    """Batches as `lockstep.records.ensemble.stack_batches` gives them, on the device."""
    return fast_batches.load_batches(recipe, data, batches, masks, device)


@cache
def make_segment(recipe: Recipe) -> Any:
    """Consecutive batches of S members: (state, batches) -> state, "lr" (T,) and "loss" (T, S) of
    each; `recipe` is an `update_rule`."""
    member = fast.make_segment(recipe, ("lr", "loss"))

    def segment(state: fast.State, batches: Batch) -> tuple[fast.State, dict[str, jax.Array]]:
        # what is no number of a member, the counts of updates and the rates, all share
        axes = jax.tree.map(lambda leaf: 0 if _is_own(leaf) else None, state)._replace(tables=None)
        of_batches: Any = dict.fromkeys(("x", "y_B", "masks"), 1) | dict.fromkeys(
            ("used", "share", "last")
        )
        together = jax.vmap(member, (axes, Batch(**of_batches)), (axes, {"lr": None, "loss": 1}))
        trained: tuple[fast.State, dict[str, jax.Array]] = together(state, batches)
        return trained

    return jax.jit(segment, donate_argnames="state")


@cache
def make_evaluation(recipe: Recipe) -> Any:
    """(state, held-out rows) -> the metrics of each member; `recipe` is an `update_rule`."""
    network = Network(recipe)

    @jax.jit
    def evaluate(parameters: Any, statistics: Any, x_ND: jax.Array, y_N: jax.Array) -> Any:
        def member(parameters: Any, statistics: Any) -> Any:
            *_, outputs_NK = network.outputs(parameters, statistics, x_ND).values()
            return mean_loss(recipe.loss, outputs_NK, y_N, len(y_N)), sums(
                recipe.loss, outputs_NK, y_N
            )

        return jax.vmap(member)(parameters, statistics)

    def evaluation(state: fast.State, held_out: Any) -> list[Metrics]:
        loss_S, sums_S = jax.device_get(evaluate(state.parameters, state.statistics, *held_out))
        return [
            metrics_of(loss, dict(zip(sums_S, values)))
            for loss, *values in zip(loss_S, *sums_S.values())
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
    devices = jax.local_devices(backend=place.platform)
    blocks = blocks_of(members, chunk or default_chunk(members, CHUNK), len(devices))
    free: SimpleQueue[jax.Device] = SimpleQueue()
    for each in devices:
        free.put(each)
    with ThreadPoolExecutor(len(devices)) as pool:
        found = list(pool.map(partial(_train_on_free, recipe, free, tally), blocks))
    return gather(recipe, members, found, backend="jax", environment=environment)


def _train_on_free(
    recipe: Recipe, free: SimpleQueue[jax.Device], tally: Tally, block: Sequence[PreparedData]
) -> Block:
    """A block on a device that no other is trained on; settings are those of a thread."""
    place = free.get()
    try:
        with jax.enable_x64(recipe.training.dtype == "float64"), jax.default_device(place):
            return _train_block(recipe, place, tally, block)
    finally:
        free.put(place)


def _train_block(
    recipe: Recipe, place: jax.Device, tally: Tally, block: Sequence[PreparedData]
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
        scalars.append({name: np.asarray(values)[batches.last_T] for name, values in found.items()})
        tally.add(len(block) * int(batches.last_T.sum()))
        if ends:
            metrics.append(evaluate(state, held_out))
    lr_T, loss_TS = (np.concatenate([part[name] for part in scalars]) for name in ("lr", "loss"))
    return Block(lr_T, loss_TS.T, metrics, fast.parameters_of(recipe, state))


def _is_own(leaf: jax.Array) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.integer)
