"""The fast engine: the same mathematics as `train`, with nothing between the updates."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_impl.fast.batches import Batch, load_batches, load_rows
from jax_impl.fast.network import Network
from jax_impl.fast.optimizer import make_step, start_moments
from jax_impl.io.device import describe_environment, select_device
from jax_impl.loss import link, mean_loss, sums
from lockstep.data_prep import IGNORED, Batches, Parameters, PreparedData, initial_statistics
from lockstep.recipe import CrossEntropy, Recipe
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


class State(NamedTuple):
    """What an update changes: here it gives back another, in the memory of the one that it takes.

    `tables` are constants; `updates` counts those done.
    """

    parameters: Any
    statistics: Any
    optimizer: Any
    tables: dict[int, jax.Array]
    accumulated: tuple[jax.Array, Any] | None
    average: Any
    updates: jax.Array


def initial_state(recipe: Recipe, data: PreparedData, device: jax.Device) -> State:
    """The state before the first update; `data` is of the recipe's dtype, or a
    `lockstep.records.ensemble.stack`.
    """
    tables, parameters = rate_tables(recipe, data.updates_per_epoch), _tree(data.parameters)
    lead = data.parameters["linear1.weight"].shape[:-2]
    statistics = {
        name: np.broadcast_to(array.astype(recipe.dtype), (*lead, *array.shape))
        for name, array in initial_statistics(recipe.model).items()
    }
    nothing = jax.tree.map(np.zeros_like, parameters)
    accumulated = (
        (np.zeros(lead, recipe.dtype), nothing) if recipe.gradient.accumulate > 1 else None
    )
    average = None
    if recipe.average.decay:
        average = nothing if recipe.average.start == "zero" else parameters
    # each array a copy of its own: the first update takes its memory
    parts = jax.tree.map(
        np.array, (parameters, _tree(statistics), tables, accumulated, average, np.int32(0))
    )
    parameters, placed, tables, accumulated, average, updates = jax.device_put(parts, device)
    # what depends on no argument is on no device yet, and would be compiled for apart from what an
    # update gives back
    moments = jax.device_put(jax.jit(partial(_start_moments, recipe, lead))(parameters), device)
    return State(parameters, placed, moments, tables, accumulated, average, updates)


def _start_moments(recipe: Recipe, lead: tuple[int, ...], parameters: Any) -> Any:
    if not lead:
        return start_moments(recipe, parameters)
    moments = start_moments(recipe, jax.tree.map(lambda array: array[0], parameters))

    def spread(array: jax.Array) -> jax.Array:
        # the counts of updates are those of all members
        is_count = jnp.issubdtype(array.dtype, jnp.integer)
        return array if is_count else jnp.broadcast_to(array, (*lead, *array.shape))

    return jax.tree.map(spread, moments)


@cache
def make_segment(recipe: Recipe, series: Sequence[str] = UPDATE_SERIES) -> Any:
    """Consecutive batches: (state, batches) -> state, scalars of each; `recipe` is an
    `update_rule`, and `series` says which scalars."""
    network, step, others = Network(recipe), make_step(recipe), series[1:]

    def scanned(tables: Any, state: State, batch: Batch) -> tuple[State, tuple[jax.Array, Any]]:
        state, scalars = update(state._replace(tables=tables), batch)
        # one array is written faster than several
        row = scalars["lr"], jnp.stack([scalars[name] for name in others]) if others else ()
        return state._replace(tables={}), row

    def update(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        loss, gradients, statistics = network.gradients(state.parameters, state.statistics, batch)
        state = state._replace(statistics=statistics)
        if state.accumulated is None:
            stepped: tuple[State, dict[str, Any]] = step(state, loss, gradients)
            return stepped
        terms = jax.tree.map(
            lambda total, term: total + batch.share * term, state.accumulated, (loss, gradients)
        )
        found: tuple[State, dict[str, Any]] = jax.lax.cond(batch.last, apply, wait, state, terms)
        return found

    def wait(state: State, accumulated: tuple[jax.Array, Any]) -> tuple[State, dict[str, Any]]:
        return state._replace(accumulated=accumulated), dict.fromkeys(
            UPDATE_SERIES, jnp.zeros_like(accumulated[0])
        )

    def apply(state: State, accumulated: tuple[jax.Array, Any]) -> tuple[State, dict[str, Any]]:
        state, scalars = step(state, *accumulated)
        return state._replace(accumulated=jax.tree.map(jnp.zeros_like, accumulated)), scalars

    def segment(state: State, batches: Batch) -> tuple[State, dict[str, jax.Array]]:
        classes = state.parameters[network.last]["kernel"].shape[-1]
        prepared = jax.vmap(partial(_prepared, network, classes))(batches)
        row = jnp.zeros((), network.dtype), jnp.zeros(len(others), network.dtype) if others else ()
        joined, tables = _joined(network, state._replace(tables={})), state.tables
        state, (lr_T, others_TN) = _scan(partial(scanned, tables), joined, prepared, row)
        scalars = zip(series, (lr_T, *(others_TN.T if others else ())))
        return _parted(network, state)._replace(tables=tables), dict(scalars)

    return jax.jit(segment, donate_argnames="state")


def _scan(update: Any, state: Any, batches: Batch, like: Any) -> Any:
    """As `jax.lax.scan`, where what an update finds is like `like`; but for a single batch, of
    which XLA would make no loop, fuse other operations, and round otherwise: it is laid beside
    itself, and how many there are is not told. The bits of a run must not depend on where it is
    recorded."""
    many = len(batches.used)
    if many == 1:
        batches = jax.tree.map(lambda array: jnp.concatenate([array, array]), batches)

    def body(t: jax.Array, carried: Any) -> Any:
        state, rows = carried
        batch = jax.tree.map(
            lambda array: jax.lax.dynamic_index_in_dim(array, t, keepdims=False), batches
        )
        state, row = update(state, batch)
        return state, jax.tree.map(
            lambda a, value: jax.lax.dynamic_update_index_in_dim(a, value, t, 0), rows, row
        )

    rows = jax.tree.map(lambda array: jnp.zeros((max(many, 2), *array.shape), array.dtype), like)
    state, rows = jax.lax.fori_loop(
        0, jax.lax.optimization_barrier(jnp.int32(many)), body, (state, rows)
    )
    return state, jax.tree.map(lambda array: array[:many], rows)


def _joined(network: Network, state: State) -> Any:
    """A state to train a segment from: in each of its trees of layers, weights and biases are one
    matrix.
    """
    return jax.tree.map(_join, state, is_leaf=_is_tree) if network.joins else state


def _parted(network: Network, state: Any) -> Any:
    """Such a state as it was."""
    return jax.tree.map(_part, state, is_leaf=_is_tree) if network.joins else state


def _prepared(network: Network, classes: int, batch: Batch) -> Batch:
    """A batch to train on: with a row of ones for the bias, and the target of each class for its
    labels.
    """
    if network.joins:
        batch = batch._replace(x=jnp.concatenate([batch.x, jnp.ones_like(batch.x[:1])]))
    if isinstance(network.loss, CrossEntropy):
        batch = batch._replace(
            y_B=_class_targets(network.loss, batch.y_B, batch.used, classes, network.dtype)
        )
    return batch


def _class_targets(
    loss: CrossEntropy, y_B: jax.Array, count: jax.Array, classes: int, dtype: Any
) -> jax.Array:
    """What each class (K, B) is to be times -log softmax, so that the sum is the mean cross
    entropy.
    """
    counts_B, label_B = (jnp.arange(len(y_B)) < count) & (y_B != IGNORED), jnp.maximum(y_B, 0)
    weight_K = jnp.asarray(loss.class_weights or (1.0,) * classes, dtype)
    labels_BK = optax.smooth_labels(
        jax.nn.one_hot(label_B, classes, dtype=dtype), loss.label_smoothing
    )
    total = jnp.sum(jnp.where(counts_B, weight_K[label_B], 0.0))
    # where no row counts all are NaN
    return jnp.where(counts_B, (weight_K * labels_BK).T, 0.0) / total


def _is_tree(leaf: Any) -> bool:
    return isinstance(leaf, dict) and "linear1" in leaf


def _join(tree: Any) -> Any:
    if not _is_tree(tree):
        return tree
    return {
        layer: _matrix(**kinds) if "kernel" in kinds else kinds for layer, kinds in tree.items()
    }


def _matrix(kernel: Any, bias: Any) -> dict[str, Any]:
    """Of one tensor each, or of what an optimizer remembers of each."""

    def beside(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        # a number that each tensor has is the same for both
        return jnp.concatenate([kernel.T, bias[:, None]], axis=1) if kernel.ndim else kernel

    return {"matrix": jax.tree.map(beside, kernel, bias)}


def _part(tree: Any) -> Any:
    if not _is_tree(tree):
        return tree
    return {
        layer: _kinds(kinds["matrix"]) if "matrix" in kinds else kinds
        for layer, kinds in tree.items()
    }


def _kinds(matrix: Any) -> dict[str, Any]:
    return {
        "kernel": jax.tree.map(lambda array: array[:, :-1].T if array.ndim else array, matrix),
        "bias": jax.tree.map(lambda array: array[:, -1] if array.ndim else array, matrix),
    }


@cache
def make_evaluation(recipe: Recipe) -> Any:
    """(state, train rows, held-out rows) -> the metrics of each, and what the first held-out row
    becomes in each
    layer; `recipe` is an `update_rule`."""
    network = Network(recipe)

    @jax.jit
    def evaluate(
        parameters: Any, statistics: Any, train: Any, held_out: Any
    ) -> tuple[list[Any], Any]:
        found = []
        for x_ND, y_N in (train, held_out):
            *_, outputs_NK = network.outputs(parameters, statistics, x_ND).values()
            found.append(
                (
                    mean_loss(recipe.loss, outputs_NK, y_N, len(y_N)),
                    sums(recipe.loss, outputs_NK, y_N),
                )
            )
        layer_by_layer = network.outputs(parameters, statistics, held_out[0][:1])
        *_, outputs_1K = layer_by_layer.values()
        layer_by_layer |= link(recipe.loss, outputs_1K)
        # jit would hand a dict back in the order of its keys
        return found, OrderedDict(
            (name, h_1H[0].astype(outputs_1K.dtype)) for name, h_1H in layer_by_layer.items()
        )

    def evaluation(state: State, train: Any, held_out: Any) -> Any:
        (of_train, of_held_out), layers = evaluate(
            state.parameters, state.statistics, train, held_out
        )
        prediction = {name: np.asarray(values_H) for name, values_H in layers.items()}
        return metrics_of(*of_train), metrics_of(*of_held_out), prediction

    return evaluation


def parameters_of(recipe: Recipe, state: State) -> Parameters:
    """The parameters, and running statistics where there are any, in canonical names and layout, in
    NumPy.
    """
    network = Network(recipe)
    return network.named(state.parameters) | network.named(state.statistics)


class View:
    """A `lockstep.records.run_recorder.View` of this engine, which records nothing in detail."""

    def __init__(self, recipe: Recipe, run: State, rows: Any, evaluate: Any) -> None:
        self.recipe, self.run = recipe, run
        self._evaluated = cache(lambda: evaluate(run, *rows))

    def parameters(self) -> Parameters:
        """The parameters and running statistics."""
        return parameters_of(self.recipe, self.run)

    def average(self, updates: int) -> Parameters:
        """The average of the parameters, as it is read after that many updates."""
        return _average(self.recipe, self.run, updates)

    def arrays(self) -> Parameters:
        """Every array of the state, named as in a checkpoint."""
        # loaded where a checkpoint is written: it loads Flax
        from jax_impl.io.checkpoint import export_state

        return export_state(self.recipe, self.run)

    def detail(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def metrics(self) -> tuple[Metrics, Metrics]:
        """The metrics over the training rows, and over those held out."""
        train, held_out, _ = self._evaluated()
        return train, held_out

    def prediction(self) -> Parameters:
        """The first held-out row, layer by layer."""
        *_, layers = self._evaluated()
        prediction: Parameters = layers
        return prediction


def train(
    recipe: Recipe, data: PreparedData, *, device: str = "cpu", watch: Watch = Watch()
) -> Trace:
    """Train on the recipe's data and record the run; arguments and errors are those of
    `train.train`.

    `watch` asks for neither detail nor statistics, nor are updates synchronised.
    """
    place = select_device(device)
    recorder = RunRecorder(
        recipe, data, watch, backend="jax", environment=describe_environment(place)
    )
    data = data.cast(recipe.dtype)
    with jax.enable_x64(recipe.training.dtype == "float64"), jax.default_device(place):
        rows = tuple(
            load_rows(recipe.loss, x_ND, y_N, place)
            for x_ND, y_N in (
                (data.train_x_ND, data.train_y_N),
                (data.held_out_x_ND, data.held_out_y_N),
            )
        )
        rule = recipe.update_rule
        state, segment, evaluate = (
            initial_state(recipe, data, place),
            make_segment(rule),
            make_evaluation(rule),
        )
        if watch.resume is not None:
            from jax_impl.io.checkpoint import import_state

            state = jax.device_put(import_state(recipe, state, watch.resume), place)
        view = View(recipe, state, rows, evaluate)
        recorder.begin(view)
        drawn = lru_cache(maxsize=1)(lambda epoch: (data.batches(epoch), data.masks(epoch)))
        for part in recorder.segments():
            batches, masks = drawn(part.epoch)
            cut = slice(part.start, part.stop)
            chosen = (
                Batches._make(array[cut] for array in batches),
                [mask_TBH[cut] for mask_TBH in masks],
            )
            state, scalars = segment(state, load_batches(recipe, data, *chosen, place))
            view = View(recipe, state, rows, evaluate)
            recorder.record({name: np.asarray(values) for name, values in scalars.items()}, view)
        return recorder.finish(view)


def _average(recipe: Recipe, state: State, updates: int) -> Parameters:
    """The average to read after that many updates; as `average.export_average`, without Flax."""
    weight = 1 - recipe.average.decay**updates if recipe.average.debias and updates else 1.0
    return {
        name: array / weight for name, array in Network(recipe).named(state.average or {}).items()
    }


def _tree(tensors: Parameters) -> dict[str, dict[str, Any]]:
    """layer -> kind -> array, with Flax's names, from canonical names; both [in, out]."""
    tree: dict[str, dict[str, Any]] = {}
    for name, array in tensors.items():
        layer, _, kind = name.partition(".")
        weight = "scale" if layer.startswith("norm") else "kernel"
        tree.setdefault(layer, {})[weight if kind == "weight" else kind] = array
    return tree
