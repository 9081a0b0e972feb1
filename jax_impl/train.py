"""Train a recipe and record it."""

from collections.abc import Collection, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from jax_impl.average import export_average, start_average, update_average
from jax_impl.gradient import clip, norm
from jax_impl.io.checkpoint import export_state, import_state
from jax_impl.io.detail import detail_of_batch, detail_of_gradients
from jax_impl.io.device import describe_environment, select_device
from jax_impl.loss import mean_loss, sums
from jax_impl.model import build_model, export_parameters
from jax_impl.optimizer import learning_rate, make_optimizer
from jax_impl.predict import trace_prediction
from jax_impl.schedule import make_schedule
from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Loss, Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.trace import BUDGET_MIB, UPDATE_SERIES, Metrics, Progress, RunRecorder, Trace, metrics_of
from lockstep.schedules.rate_tables import rate_tables

__all__ = ["Batch", "State", "evaluate", "initial_state", "load_batches", "make_segment", "make_update", "train"]


class State(NamedTuple):
    """What an update takes and gives back: a pure function changes nothing in place. `accumulated` is the loss and
    the gradients of the batches accumulated so far."""

    graph: nnx.GraphDef[Any]
    parameters: nnx.State[Any, Any]
    optimizer: optax.OptState
    tables: dict[int, jax.Array]
    accumulated: tuple[jax.Array, Any] | None
    average: Any
    statistics: nnx.State[Any, Any]


class Batch(NamedTuple):
    """Rows of one batch, how many of them count, the batch's share of its update, whether it completes it, and the
    dropout mask of each hidden layer."""

    x_BD: jax.Array
    y_B: jax.Array
    used: jax.Array
    share: jax.Array
    last: jax.Array
    masks: list[jax.Array]


def initial_state(recipe: Recipe, data: PreparedData, device: jax.Device) -> State:
    """The state before the first update; `data` is of the recipe's dtype."""
    tables = {layer: jnp.asarray(table_T) for layer, table_T in rate_tables(recipe, data.updates_per_epoch).items()}
    schedules = {layer: make_schedule(table_T) for layer, table_T in tables.items()}
    model = build_model(recipe, data, device)
    graph, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc] # a part a filter
    _, optimizer = make_optimizer(recipe.optimizer, schedules, parameters)
    accumulated = None
    if recipe.gradient.accumulate > 1:
        accumulated = jnp.zeros((), recipe.dtype), jax.tree.map(jnp.zeros_like, parameters)
    average = start_average(recipe.average, parameters)
    # committed to the device as an update's results are, so that the first update compiles for all of them
    state = State(graph, parameters, optimizer, tables, accumulated, average, statistics)
    placed: State = jax.device_put(state, device)
    return placed


def load_batches(data: PreparedData, epoch: int, device: jax.Device) -> Batch:
    """The batches of an epoch, counted from 0, on the device; stacked along a leading axis."""
    rows_TB, _, count_T, share_T, last_T = data.batches(epoch)
    scalars = (count_T.astype(np.int32), share_T.astype(data.train_x_ND.dtype), last_T)
    arrays = (data.train_x_ND[rows_TB], _narrow(data.train_y_N)[rows_TB], *scalars, data.masks(epoch))
    return Batch(*jax.device_put(arrays, device))


def _narrow(y_N: NDArray[Any]) -> NDArray[Any]:
    # JAX has no 64-bit integers unless it has 64-bit floats
    return y_N.astype(np.int32) if y_N.dtype.kind == "i" else y_N


def _cut(batches: Batch, start: int, stop: int) -> Batch:
    # the whole epoch as it is: a slice of a JAX array is a computation, compiled for its shape
    return batches if stop - start == len(batches.used) else jax.tree.map(lambda array: array[start:stop], batches)


def make_update(recipe: Recipe, detail: bool = False) -> Any:
    """One batch of the recipe, and the update that it completes: (state, batch) -> state, scalars; zeros where it
    completes none. With `detail` the scalars are joined by what `RunRecorder.record_detail` takes."""

    def update(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        def loss_of(parameters: nnx.State[Any, Any]) -> tuple[jax.Array, tuple[Any, nnx.State[Any, Any]]]:
            # a copy: batch normalisation writes its running statistics into the model
            model = nnx.merge(state.graph, parameters, state.statistics, copy=True)
            outputs = model.outputs(batch.x_BD, batch.masks, batch.used)
            *_, outputs_BK = outputs.values()
            loss = mean_loss(recipe.loss, outputs_BK, batch.y_B, batch.used)
            return loss, (outputs, nnx.state(model, nnx.BatchStat))

        (loss, (outputs, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.parameters)
        seen = detail_of_batch(batch, outputs) if detail else {}
        state = state._replace(statistics=statistics)
        if state.accumulated is None:
            state, scalars = apply(state, (loss, gradients))
            return state, scalars | seen
        # a batch alone in its update has share 1
        terms = jax.tree.map(lambda total, term: total + batch.share * term, state.accumulated, (loss, gradients))
        state, scalars = jax.lax.cond(batch.last, apply, wait, state, terms)
        return state, scalars | seen

    def wait(state: State, accumulated: tuple[jax.Array, Any]) -> tuple[State, dict[str, Any]]:
        scalars = dict.fromkeys(UPDATE_SERIES, jnp.zeros_like(accumulated[0]))
        seen: dict[str, Any] = {}
        if detail:  # both branches of a condition give back the same names
            kinds = ("gradients", "clip") if recipe.gradient.clip != "none" else ("gradients",)
            for kind in kinds:
                seen |= detail_of_gradients(kind, jax.tree.map(jnp.zeros_like, accumulated[1]))
        return state._replace(accumulated=accumulated), scalars | seen

    def apply(state: State, accumulated: tuple[jax.Array, Any]) -> tuple[State, dict[str, Any]]:
        schedules = {layer: make_schedule(table_T) for layer, table_T in state.tables.items()}
        transformation, _ = make_optimizer(recipe.optimizer, schedules, state.parameters)
        loss, gradients = accumulated
        lr = learning_rate(state.optimizer, schedules[0])
        grad_norm = norm(gradients)
        seen = detail_of_gradients("gradients", gradients) if detail else {}
        clipped = clip(recipe.gradient, gradients)
        if detail and recipe.gradient.clip != "none":
            seen |= detail_of_gradients("clip", clipped)
        steps, optimizer = transformation.update(clipped, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, steps)
        nothing = jax.tree.map(jnp.zeros_like, state.accumulated)
        average = update_average(recipe.average, state.average, parameters)
        changes = jax.tree.map(jnp.subtract, parameters, state.parameters)
        scalars = {"lr": lr, "loss": loss, "grad_norm": grad_norm, "update_norm": norm(changes)}
        state = state._replace(parameters=parameters, optimizer=optimizer, accumulated=nothing, average=average)
        return state, scalars | seen

    return update


@cache
def make_segment(recipe: Recipe, detail: bool = False) -> Any:
    """Consecutive batches: (state, batches) -> state, scalars of each; `recipe` is an `update_rule`."""
    update = make_update(recipe, detail)

    @jax.jit
    def segment(state: State, batches: Batch) -> tuple[State, dict[str, Any]]:
        return jax.lax.scan(update, state, batches)

    return segment


@partial(jax.jit, static_argnames="loss")
def _evaluate(loss: Loss, parts: Any, x_ND: jax.Array, y_N: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    model = nnx.merge(*parts)
    model.eval()
    outputs_NK = model(x_ND)
    return mean_loss(loss, outputs_NK, y_N, len(y_N)), sums(loss, outputs_NK, y_N)


def evaluate(loss: Loss, state: State, x_ND: jax.Array, y_N: jax.Array) -> Metrics:
    """Loss and other metrics over all rows."""
    # not the whole state: what is compiled is the same whatever optimizer trains the model
    parts = state.graph, state.parameters, state.statistics
    return metrics_of(*_evaluate(loss, parts, x_ND, y_N))


def train(
    recipe: Recipe,
    data: PreparedData,
    *,
    device: str = "cpu",
    parameters_every: int = 0,
    detail: Collection[int] = (),
    statistics: bool = False,
    progress: Progress | None = None,
    resume: Checkpoint | None = None,
    checkpoints: Checkpoints | None = None,
    synchronise: Iterator[Checkpoint] | None = None,
    budget_mib: float = BUDGET_MIB,
) -> Trace:
    """Train on the recipe's data and record the run.

    Args:
        recipe: what to train.
        data: from `lockstep.data_prep.prepare`.
        device: "cpu", "gpu" or "auto".
        parameters_every: record the parameters after every so many updates too; 0: at epoch ends only.
        detail: the updates, counted from 0, to record in detail, from rows to moments.
        statistics: record mean, root mean square and largest absolute value of every tensor at every update too.
        progress: told how far the run is.
        resume: where to go on from, whichever backend wrote it; None: at the start.
        checkpoints: how often to write one, and where to; None: never.
        synchronise: states to begin every update from, as `lockstep.oracle.train.states` gives them; None: each goes on
            from the last.
        budget_mib: MiB of memory that the detail of all updates and the statistics may take.

    Raises:
        InputError: no such device, a checkpoint of another recipe or of other data, or more to record than its budget.
    """
    place = select_device(device)
    environment = describe_environment(place)
    recorder = RunRecorder(
        recipe,
        data,
        backend="jax",
        environment=environment,
        parameters_every=parameters_every,
        detail=detail,
        statistics=statistics,
        progress=progress,
        resume=resume,
        checkpoints=checkpoints,
        synchronise=synchronise,
        budget_mib=budget_mib,
    )
    data = data.cast(recipe.dtype)
    with jax.enable_x64(recipe.training.dtype == "float64"), jax.default_device(place):
        train_rows, held_out_rows = (
            (jax.device_put(x_ND, place), jax.device_put(_narrow(y_N), place))
            for x_ND, y_N in ((data.train_x_ND, data.train_y_N), (data.held_out_x_ND, data.held_out_y_N))
        )
        state = initial_state(recipe, data, place)
        segment, detailed = make_segment(recipe.update_rule), make_segment(recipe.update_rule, detail=True)
        if resume is not None:
            state = jax.device_put(import_state(recipe, state, resume), place)
        recorder.record_parameters(_parameters(state), export_average(recipe.average, state.average, recorder.done))
        loaded = -1
        for epoch, start, stop in recorder.segments():
            if epoch != loaded:
                batches, loaded = load_batches(data, epoch, place), epoch
            if recorder.given is not None:
                state = jax.device_put(import_state(recipe, state, recorder.given), place)
            before = state
            state, scalars = segment(state, _cut(batches, start, stop))
            recorder.record_segment({name: np.asarray(scalars[name]) for name in UPDATE_SERIES})
            if recorder.is_detailed:
                # once more from the same state: compiled with more to give back, an update may round otherwise
                _, scalars = detailed(before, _cut(batches, start, stop))
                recorder.record_detail(jax.device_get(scalars), export_state(recipe, state))
            average = export_average(recipe.average, state.average, recorder.done)
            recorder.record_parameters(_parameters(state), average)
            if recorder.checkpoint_is_due:
                recorder.save_checkpoint(export_state(recipe, state))
            if stop == data.batches_per_epoch:
                parts = (train_rows, held_out_rows)
                recorder.record_epoch(*(evaluate(recipe.loss, state, *rows) for rows in parts))
        model = nnx.merge(state.graph, state.parameters, state.statistics)
        return recorder.finish(trace_prediction(recipe.loss, model, held_out_rows[0][:1]))


def _parameters(state: State) -> Parameters:
    return export_parameters(state.parameters) | export_parameters(state.statistics)
