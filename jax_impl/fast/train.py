"""The fast engine: the mathematics of `jax_impl.train`, with nothing between the updates."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from jax_impl.fast.batches import Batch, load_batches, load_rows
from jax_impl.fast.network import Network
from jax_impl.fast.optimizer import make_step, start_moments
from jax_impl.io.device import describe_environment, select_device
from jax_impl.loss import link, mean_loss, sums
from lockstep.data_prep import IGNORED, Batches, Parameters, PreparedData, initial_statistics
from lockstep.recipe import CrossEntropy, Recipe
from lockstep.records.checkpoint import Checkpoint
from lockstep.records.run_recorder import RunRecorder, Watch
from lockstep.records.trace import UPDATE_SERIES, Metrics, Trace, metrics_of
from lockstep.schedules.rate_tables import rate_tables

__all__ = [
    "State",
    "View",
    "initial_state",
    "make_evaluation",
    "make_segment",
    "parameters_of",
    "train",
]


Tensors = dict[str, dict[str, Any]]
"""Layer -> kind -> array, or whatever an optimizer remembers of it, with Flax's names."""
Scalars = dict[str, jax.Array]
"""Series -> its value in each batch."""
Rows = tuple[jax.Array, jax.Array]
"""Rows to evaluate: features (N, D), and labels (N,)."""
Evaluation = Callable[["State", Rows, Rows], tuple[Metrics, Metrics, Parameters]]
"""(state, training rows, held-out rows) -> metrics of both, and the first held-out row by layer."""


class State(NamedTuple):
    """What an update changes; the new state takes the memory of the old one.

    `tables` are constants; `updates` is the number of updates so far.
    """

    parameters: Tensors
    statistics: Tensors
    optimizer: optax.OptState
    tables: dict[int, jax.Array]
    accumulated: tuple[jax.Array, Tensors] | None
    average: Tensors | None
    updates: jax.Array


def initial_state(recipe: Recipe, data: PreparedData, device: jax.Device) -> State:
    """The state before the first update.

    `data` is of the recipe's dtype, or a `lockstep.records.ensemble.stack`.
    """
    tables = rate_tables(recipe, data.updates_per_epoch)
    parameters = _tree(data.parameters)
    lead = data.parameters["linear1.weight"].shape[:-2]
    statistics = {}
    for name, array in initial_statistics(recipe.model).items():
        shape = (*lead, *array.shape)
        statistics[name] = np.broadcast_to(array.astype(recipe.dtype), shape)
    zeros = jax.tree.map(np.zeros_like, parameters)
    accumulated = None
    if recipe.gradient.accumulate > 1:
        accumulated = np.zeros(lead, recipe.dtype), zeros
    average = None
    if recipe.average.decay:
        average = zeros if recipe.average.start == "zero" else parameters
    parts = (parameters, _tree(statistics), tables, accumulated, average, np.int32(0))
    # each array is a copy of its own: the first update takes its memory
    parts = jax.device_put(jax.tree.map(np.array, parts), device)
    placed, placed_statistics, tables, accumulated, average, updates = parts
    # committed to the device, as results of an update are: one compilation serves all updates
    moments = jax.device_put(jax.jit(partial(_start_moments, recipe, lead))(placed), device)
    return State(placed, placed_statistics, moments, tables, accumulated, average, updates)


def _start_moments(recipe: Recipe, lead: tuple[int, ...], parameters: Tensors) -> optax.OptState:
    """The optimizer's state before the first update; with members, one for each."""
    if not lead:
        return start_moments(recipe, parameters)
    moments = start_moments(recipe, jax.tree.map(lambda array: array[0], parameters))

    def spread(array: jax.Array) -> jax.Array:
        # all members share the counts of updates
        is_count = jnp.issubdtype(array.dtype, jnp.integer)
        return array if is_count else jnp.broadcast_to(array, (*lead, *array.shape))

    return jax.tree.map(spread, moments)


@cache
def make_segment(
    recipe: Recipe, series: Sequence[str] = UPDATE_SERIES
) -> Callable[[State, Batch], tuple[State, Scalars]]:
    """Consecutive batches, one after another: (state, batches) -> state, scalars of each batch.

    `recipe` is an `update_rule`; `series` are the names of the scalars.
    """
    network = Network(recipe)
    step = make_step(recipe)
    others = series[1:]

    def scanned(
        tables: dict[int, jax.Array], state: State, batch: Batch
    ) -> tuple[State, tuple[jax.Array, Any]]:
        state, scalars = update(state._replace(tables=tables), batch)
        # XLA writes one array faster than several
        row = scalars["lr"], jnp.stack([scalars[name] for name in others]) if others else ()
        return state._replace(tables={}), row

    def update(state: State, batch: Batch) -> tuple[State, Scalars]:
        loss, gradients, statistics = network.gradients(state.parameters, state.statistics, batch)
        state = state._replace(statistics=statistics)
        if state.accumulated is None:
            stepped: tuple[State, Scalars] = step(state, loss, gradients)
            return stepped
        terms = state.accumulated, (loss, gradients)
        accumulated = jax.tree.map(lambda total, term: total + batch.share * term, *terms)
        updated: tuple[State, Scalars] = jax.lax.cond(batch.last, apply, wait, state, accumulated)
        return updated

    def wait(state: State, accumulated: tuple[jax.Array, Tensors]) -> tuple[State, Scalars]:
        scalars = dict.fromkeys(UPDATE_SERIES, jnp.zeros_like(accumulated[0]))
        return state._replace(accumulated=accumulated), scalars

    def apply(state: State, accumulated: tuple[jax.Array, Tensors]) -> tuple[State, Scalars]:
        state, scalars = step(state, *accumulated)
        return state._replace(accumulated=jax.tree.map(jnp.zeros_like, accumulated)), scalars

    def segment(state: State, batches: Batch) -> tuple[State, Scalars]:
        classes = state.parameters[network.last]["kernel"].shape[-1]
        prepared = jax.vmap(partial(_prepared, network, classes))(batches)
        row = jnp.zeros((), network.dtype), jnp.zeros(len(others), network.dtype) if others else ()
        joined = _joined(network, state._replace(tables={}))
        tables = state.tables
        state, (lr_T, others_TN) = _scan(partial(scanned, tables), joined, prepared, row)
        scalars = zip(series, (lr_T, *(others_TN.T if others else ())))
        return _parted(network, state)._replace(tables=tables), dict(scalars)

    return jax.jit(segment, donate_argnames="state")


def _scan(update: Any, state: Any, batches: Batch, like: Any) -> Any:
    """`jax.lax.scan` with a loop even for a single batch; an update's scalars are like `like`.

    The bits of a run must not depend on where it is recorded. XLA would make no loop of a single
    batch, fuse other operations, and round otherwise. So a single batch is laid beside itself, and
    a barrier hides the number of batches from XLA.
    """
    size = len(batches.used)
    if size == 1:
        batches = jax.tree.map(lambda array: jnp.concatenate([array, array]), batches)

    def body(t: jax.Array, carried: Any) -> Any:
        state, rows = carried

        def written(column: jax.Array, value: jax.Array) -> jax.Array:
            longer: jax.Array = jax.lax.dynamic_update_index_in_dim(column, value, t, 0)
            return longer

        batch = jax.tree.map(
            lambda array: jax.lax.dynamic_index_in_dim(array, t, keepdims=False), batches
        )
        state, row = update(state, batch)
        return state, jax.tree.map(written, rows, row)

    rows = jax.tree.map(lambda array: jnp.zeros((max(size, 2), *array.shape), array.dtype), like)
    hidden_size = jax.lax.optimization_barrier(jnp.int32(size))
    state, rows = jax.lax.fori_loop(0, hidden_size, body, (state, rows))
    return state, jax.tree.map(lambda array: array[:size], rows)


def _joined(network: Network, state: State) -> Any:
    """The state with a layer's weight and bias as one matrix, in each of its trees."""
    return jax.tree.map(_join, state, is_leaf=_is_tree) if network.joins else state


def _parted(network: Network, state: Any) -> Any:
    """The state with weights and biases apart again."""
    return jax.tree.map(_part, state, is_leaf=_is_tree) if network.joins else state


def _prepared(network: Network, classes: int, batch: Batch) -> Batch:
    """The batch with a row of ones for the bias, and targets of classes instead of labels."""
    if network.joins:
        batch = batch._replace(x=jnp.concatenate([batch.x, jnp.ones_like(batch.x[:1])]))
    if isinstance(network.loss, CrossEntropy):
        targets = _class_targets(network.loss, batch.y_B, batch.used, classes, network.dtype)
        batch = batch._replace(y_B=targets)
    return batch


def _class_targets(
    loss: CrossEntropy, y_B: jax.Array, count: jax.Array, classes: int, dtype: DTypeLike
) -> jax.Array:
    """The factors (K, B) of -log softmax whose products add up to the mean cross entropy."""
    counts_B = (jnp.arange(len(y_B)) < count) & (y_B != IGNORED)
    label_B = jnp.maximum(y_B, 0)
    weight_K = jnp.asarray(loss.class_weights or (1.0,) * classes, dtype)
    one_hot_BK = jax.nn.one_hot(label_B, classes, dtype=dtype)
    labels_BK = optax.smooth_labels(one_hot_BK, loss.label_smoothing)
    total = jnp.sum(jnp.where(counts_B, weight_K[label_B], 0.0))
    # all are NaN if no row counts
    return jnp.where(counts_B, (weight_K * labels_BK).T, 0.0) / total


def _is_tree(leaf: Any) -> bool:
    return isinstance(leaf, dict) and "linear1" in leaf


def _join(tree: Any) -> Any:
    if not _is_tree(tree):
        return tree
    joined = {}
    for layer, kinds in tree.items():
        joined[layer] = _matrix(**kinds) if "kernel" in kinds else kinds
    return joined


def _matrix(kernel: Any, bias: Any) -> dict[str, Any]:
    """Kernel and bias of a layer, or an optimizer's moments of them, as one matrix."""

    def beside(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        # a moment that is one number is the same for both
        return jnp.concatenate([kernel.T, bias[:, None]], axis=1) if kernel.ndim else kernel

    return {"matrix": jax.tree.map(beside, kernel, bias)}


def _part(tree: Any) -> Any:
    if not _is_tree(tree):
        return tree
    parted = {}
    for layer, kinds in tree.items():
        parted[layer] = _kinds(kinds["matrix"]) if "matrix" in kinds else kinds
    return parted


def _kinds(matrix: Any) -> dict[str, Any]:
    return {
        "kernel": jax.tree.map(lambda array: array[:, :-1].T if array.ndim else array, matrix),
        "bias": jax.tree.map(lambda array: array[:, -1] if array.ndim else array, matrix),
    }


@cache
def make_evaluation(recipe: Recipe) -> Evaluation:
    """The evaluation of a state; `recipe` is an `update_rule`."""
    network = Network(recipe)

    @jax.jit
    def evaluate(
        parameters: Tensors, statistics: Tensors, train: Rows, held_out: Rows
    ) -> tuple[list[tuple[jax.Array, dict[str, jax.Array]]], OrderedDict[str, jax.Array]]:
        terms = []
        for x_ND, y_N in (train, held_out):
            *_, outputs_NK = network.outputs(parameters, statistics, x_ND).values()
            mean = mean_loss(recipe.loss, outputs_NK, y_N, len(y_N))
            terms.append((mean, sums(recipe.loss, outputs_NK, y_N)))
        layers = network.outputs(parameters, statistics, held_out[0][:1])
        *_, outputs_1K = layers.values()
        layers |= link(recipe.loss, outputs_1K)
        dtype = outputs_1K.dtype
        # jit would return a dict in the order of its keys
        return terms, OrderedDict((name, h_1H[0].astype(dtype)) for name, h_1H in layers.items())

    def evaluation(
        state: State, train: Rows, held_out: Rows
    ) -> tuple[Metrics, Metrics, Parameters]:
        terms, layers = evaluate(state.parameters, state.statistics, train, held_out)
        of_train, of_held_out = terms
        prediction = {name: np.asarray(values_H) for name, values_H in layers.items()}
        return metrics_of(*of_train), metrics_of(*of_held_out), prediction

    return evaluation


def parameters_of(recipe: Recipe, state: State) -> Parameters:
    """The parameters, and running statistics if there are any, as canonical NumPy arrays."""
    network = Network(recipe)
    return network.named(state.parameters) | network.named(state.statistics)


class View:
    """A `lockstep.records.run_recorder.View` of this engine, which records nothing in detail."""

    def __init__(
        self, recipe: Recipe, run: State, rows: tuple[Rows, Rows], evaluate: Evaluation
    ) -> None:
        self.recipe = recipe
        self.run = run
        self._evaluate = cache(lambda: evaluate(run, *rows))

    def parameters(self) -> Parameters:
        """The parameters and running statistics."""
        return parameters_of(self.recipe, self.run)

    def average(self, updates: int) -> Parameters:
        """The average of the parameters to read after that many updates."""
        return _average(self.recipe, self.run, updates)

    def arrays(self) -> Parameters:
        """Every array of the state, named as in a checkpoint."""
        # imported here: it loads Flax, which only a checkpoint needs
        from jax_impl.io.checkpoint import export_state

        return export_state(self.recipe, self.run)

    def detail(self) -> dict[str, Any]:
        """Empty: this engine has no detail."""
        return {}

    def metrics(self) -> tuple[Metrics, Metrics]:
        """The metrics over the training rows, and over those held out."""
        train, held_out, _ = self._evaluate()
        return train, held_out

    def prediction(self) -> Parameters:
        """The first held-out row, layer by layer."""
        _, _, prediction = self._evaluate()
        return prediction


def train(
    recipe: Recipe, data: PreparedData, *, device: str = "cpu", watch: Watch = Watch()
) -> Trace:
    """Train on the recipe's data and record the run, as `jax_impl.train.train` does.

    `watch` asks for neither detail nor statistics, and its updates are not synchronised.
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
    train_rows = load_rows(recipe.loss, data.train_x_ND, data.train_y_N, device)
    held_out_rows = load_rows(recipe.loss, data.held_out_x_ND, data.held_out_y_N, device)
    rows = train_rows, held_out_rows
    state = initial_state(recipe, data, device)
    segment = make_segment(recipe.update_rule)
    evaluate = make_evaluation(recipe.update_rule)
    if resume is not None:
        from jax_impl.io.checkpoint import import_state

        state = jax.device_put(import_state(recipe, state, resume), device)
    view = View(recipe, state, rows, evaluate)
    recorder.begin(view)
    draw = lru_cache(maxsize=1)(lambda epoch: (data.batches(epoch), data.masks(epoch)))
    for part in recorder.segments():
        batches, masks = draw(part.epoch)
        cut = slice(part.start, part.stop)
        some = Batches._make(array[cut] for array in batches)
        masks_of_some = [mask_TBH[cut] for mask_TBH in masks]
        loaded = load_batches(recipe, data, some, masks_of_some, device)
        state, scalars = segment(state, loaded)
        view = View(recipe, state, rows, evaluate)
        series = {name: np.asarray(values) for name, values in scalars.items()}
        recorder.record(series, view)
    return recorder.finish(view)


def _average(recipe: Recipe, state: State, updates: int) -> Parameters:
    """`average.export_average` without Flax."""
    weight = 1 - recipe.average.decay**updates if recipe.average.debias and updates else 1.0
    arrays = Network(recipe).named(state.average or {})
    return {name: array / weight for name, array in arrays.items()}


def _tree(tensors: Parameters) -> Tensors:
    """The tree of tensors with canonical names; both [in, out]."""
    tree: Tensors = {}
    for name, array in tensors.items():
        layer, _, kind = name.partition(".")
        weight = "scale" if layer.startswith("norm") else "kernel"
        tree.setdefault(layer, {})[weight if kind == "weight" else kind] = array
    return tree
