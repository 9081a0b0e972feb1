"""Train a recipe and record it."""

from collections.abc import Callable
from functools import cache, lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lockstep.data_prep import PreparedData
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint
from lockstep.records.run_recorder import RunRecorder, Watch
from lockstep.records.trace import Trace
from lockstep.schedules.rate_tables import rate_tables

from .average import start_average
from .io.checkpoint import import_state
from .io.detail import make_detailed_segment
from .io.device import describe_environment, narrow, select_device
from .io.view import View
from .model import build_model
from .optimizer import make_optimizer
from .predict import load_rows
from .schedule import make_schedule
from .update import Batch, Scalars, State, make_update

__all__ = ["initial_state", "load_batches", "make_segment", "train"]


def initial_state(recipe: Recipe, data: PreparedData, device: jax.Device) -> State:
    """The state before the first update; `data` is of the recipe's dtype."""
    tables = jax.tree.map(jnp.asarray, rate_tables(recipe, data.updates_per_epoch))
    schedules = {layer: make_schedule(table_T) for layer, table_T in tables.items()}
    model = build_model(recipe, data, device)
    graph, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc] # a part a filter
    _, optimizer = make_optimizer(recipe.optimizer, schedules, parameters)
    accumulated = None
    if recipe.gradient.accumulate > 1:
        accumulated = jnp.zeros((), recipe.dtype), jax.tree.map(jnp.zeros_like, parameters)
    average = start_average(recipe.average, parameters)
    updates = jnp.zeros((), jnp.int32)
    state = State(graph, tables, parameters, statistics, optimizer, accumulated, average, updates)
    # committed to the device, as results of an update are: one compilation serves all updates
    placed: State = jax.device_put(state, device)
    return placed


def load_batches(data: PreparedData, epoch: int, device: jax.Device) -> Batch:
    """The batches of an epoch, counted from 0, on the device: stacked, T first."""
    rows_TB, _, count_T, share_T, last_T = data.batches(epoch)
    x_TBD = data.train_x_ND[rows_TB]
    y_TB = narrow(data.train_y_N)[rows_TB]
    scalars = count_T.astype(np.int32), share_T.astype(x_TBD.dtype), last_T
    arrays = x_TBD, y_TB, *scalars, data.masks(epoch)
    return Batch(*jax.device_put(arrays, device))


def _cut(batches: Batch, start: int, stop: int) -> Batch:
    # a slice of a JAX array is a computation, compiled for its shape: a whole epoch needs none
    if stop - start == len(batches.used):
        return batches
    cut: Batch = jax.tree.map(lambda array: array[start:stop], batches)
    return cut


@cache
def make_segment(recipe: Recipe) -> Callable[[State, Batch], tuple[State, Scalars]]:
    """Consecutive batches, one after another; `recipe` is an `update_rule`."""
    update = make_update(recipe)

    @jax.jit
    def segment(state: State, batches: Batch) -> tuple[State, Scalars]:
        tables = state.tables  # constants stay outside what a scan carries

        def carried(state: State, batch: Batch) -> tuple[State, Scalars]:
            state, scalars = update(state._replace(tables=tables), batch)
            return state._replace(tables={}), scalars

        state, scalars = jax.lax.scan(carried, state._replace(tables={}), batches)
        return state._replace(tables=tables), scalars

    return segment


def train(
    recipe: Recipe, data: PreparedData, *, device: str = "cpu", watch: Watch = Watch()
) -> Trace:
    """Train on the recipe's data and record the run.

    Args:
        recipe: what to train.
        data: from `lockstep.data_prep.prepare`.
        device: "cpu", "gpu" or "auto".
        watch: what to record, and where the run begins.

    Raises:
        InputError: no such device, a checkpoint of another recipe or of other data, or more to
        record than its budget.
    """
    place = select_device(device)
    environment = describe_environment(place)
    recorder = RunRecorder(recipe, data, watch, backend="jax", environment=environment)
    with jax.enable_x64(recipe.training.dtype == "float64"), jax.default_device(place):
        return _train(recipe, data.cast(recipe.dtype), place, recorder, watch.resume)


def _train(
    recipe: Recipe,
    data: PreparedData,
    device: jax.Device,
    recorder: RunRecorder,
    resume: Checkpoint | None,
) -> Trace:
    state = initial_state(recipe, data, device)
    rows = load_rows(data, device)
    load = lru_cache(maxsize=1)(partial(load_batches, data, device=device))
    segment = make_segment(recipe.update_rule)
    detailed_segment = make_detailed_segment(recipe.update_rule)
    if resume is not None:
        state = jax.device_put(import_state(recipe, state, resume), device)
    view = View(recipe, state, rows, dict)
    recorder.begin(view)
    for part in recorder.segments():
        if part.given is not None:
            state = jax.device_put(import_state(recipe, state, part.given), device)
        batches = _cut(load(epoch=part.epoch), part.start, part.stop)
        # trained once more from the same state where detail is read: an update that is compiled
        # with more outputs may round otherwise
        detail = partial(detailed_segment, state, batches)
        state, scalars = segment(state, batches)
        view = View(recipe, state, rows, detail)
        series = {name: np.asarray(values) for name, values in scalars._asdict().items()}
        recorder.record(series, view)
    return recorder.finish(view)
