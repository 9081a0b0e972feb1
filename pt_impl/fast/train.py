"""The fast engine: the mathematics of `pt_impl.train`, with nothing between the updates."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lockstep.data_prep import Batches, Parameters, PreparedData
from lockstep.recipe import Loss, Recipe
from lockstep.records.checkpoint import Checkpoint
from lockstep.records.run_recorder import RunRecorder, Watch
from lockstep.records.trace import UPDATE_SERIES, Metrics, Trace, metrics_of
from lockstep.schedules.rate_tables import decays, layer_of, rate_tables
from pt_impl.fast.batches import Batch, load_batches, load_rows
from pt_impl.fast.losses import MODULES
from pt_impl.fast.network import Network, Slot
from pt_impl.fast.optimizer import make_step, start_moments
from pt_impl.io.device import describe_environment, select_device
from pt_impl.loss import link, mean_loss, sums
from pt_impl.model import import_parameters

__all__ = [
    "State",
    "View",
    "initial_state",
    "make_evaluation",
    "make_segment",
    "parameters_of",
    "train",
]


ROOM = 2**23
"""Numbers that the batches loaded at once may have."""

Rows = tuple[Tensor, Tensor]
"""Rows to evaluate: features (N, D), and labels (N,)."""
Evaluation = Callable[["State", Rows, Rows], tuple[Metrics, Metrics, Parameters]]
"""(state, training rows, held-out rows) -> metrics of both, and the first held-out row by layer."""


class State(NamedTuple):
    """What an update changes, in place. A vector (n,) has a place for each parameter."""

    network: Network
    moments: dict[str, Tensor]
    rates: list[Any]
    """The learning rate of every update: a number, or with multipliers one for each layer."""
    lr_T: Tensor
    layers: Tensor | None
    """The layer of every parameter (n,), counted from 0; None without multipliers."""
    decayed: Tensor | None
    """1 where weight decay acts (n,); None if it acts on all."""
    accumulated: Tensor | None
    """The gradient of the update's batches so far (n,); None if it has one batch."""
    loss: Tensor
    """The loss of the update's batches so far."""
    average: Tensor | None
    updates: list[int]
    """The number of updates so far, alone in its list."""
    counter: Tensor
    """Memory for the number of updates."""
    work: tuple[Tensor, ...]
    """Memory for three vectors."""


def initial_state(recipe: Recipe, data: PreparedData, device: torch.device) -> State:
    """The state before the first update.

    `data` is of the recipe's dtype, or a `lockstep.records.ensemble.stack`.
    """
    network = Network(recipe, data, device)
    parameters = network.rows[0]
    tables = rate_tables(recipe, data.updates_per_epoch)
    lr_T = torch.from_numpy(tables.pop(0))
    rates = lr_T.tolist()
    layers = None
    if tables:
        rates_TL = torch.stack([torch.from_numpy(table_T) for table_T in tables.values()], dim=1)
        rates = list(rates_TL.to(device))
        layers = _filled(network, lambda name: layer_of(name) - 1).long()
    decayed = None
    if recipe.optimizer.decay_on == "weights":
        decayed = _filled(network, lambda name: float(decays(recipe.optimizer, name)))
    average = None
    if recipe.average.decay:
        starts_at_zero = recipe.average.start == "zero"
        average = torch.zeros_like(parameters) if starts_at_zero else parameters.clone()
    accumulates = recipe.gradient.accumulate > 1
    return State(
        network=network,
        moments=start_moments(recipe, parameters),
        rates=rates,
        lr_T=lr_T.to(parameters.dtype),
        layers=layers,
        decayed=decayed,
        accumulated=torch.zeros_like(parameters) if accumulates else None,
        loss=parameters.new_zeros(1, *network.lead),
        average=average,
        updates=[0],
        counter=torch.zeros((), dtype=torch.float32, device=device),
        work=parameters.new_empty(3, len(parameters)).unbind(0),
    )


def _filled(network: Network, value: Callable[[str], float]) -> Tensor:
    """A vector with value(name) in the places of each parameter."""
    vector = torch.zeros_like(network.rows[0])
    for name, part in network.named(vector).items():
        part.fill_(value(name))
    return vector


def make_segment(
    recipe: Recipe, series: Sequence[str] = UPDATE_SERIES
) -> Callable[[State, list[Batch]], tuple[State, dict[str, Tensor]]]:
    """Consecutive batches, one after another: (state, batches) -> state, scalars of each batch.

    `recipe` is an `update_rule`; `series` are the names of the scalars.
    """
    step = make_step(recipe)
    has_norms = "grad_norm" in series

    def stretch(state: State, batches: list[Batch]) -> list[Tensor]:
        """Train batches, at most one a slot, and return all scalars but the learning rate."""
        network = state.network
        completed = 0
        squares: list[Tensor] = []
        for place, batch in enumerate(batches):
            slot = network.slots[completed]
            network.gradients(slot, batch, place)
            if state.accumulated is not None:
                gradient = network.gradient_rows[slot.gradient]
                state.accumulated.add_(gradient)
                gradient.copy_(state.accumulated)
            if batch.last:
                step(state, slot)
                if has_norms and not network.stores_updates:
                    squares += _squares(network, slot)
                completed += 1
                if state.accumulated is not None:
                    state.accumulated.zero_()
        scalars: list[Tensor] = []
        if "loss" in series:
            scalars.append(_losses(recipe.loss, state, batches))
        if has_norms:
            scalars += _norms(network, completed, squares)
        last = network.slots[completed - 1].after if completed else 0
        if last:
            network.rows[0].copy_(network.rows[last])
        return scalars

    @torch.inference_mode()
    def segment(state: State, batches: list[Batch]) -> tuple[State, dict[str, Tensor]]:
        size = len(state.network.slots)
        first = state.updates[0]
        stretches = [batches[begin : begin + size] for begin in range(0, len(batches), size)]
        parts = [stretch(state, some) for some in stretches]
        columns = [torch.cat(column) for column in zip(*parts)]
        lr_T = state.lr_T[first : state.updates[0]]
        scalars = dict(zip(series, (lr_T, *columns)))
        if state.accumulated is None:
            return state, scalars
        # zeros where a batch completes no update
        last_T = torch.tensor([batch.last for batch in batches])
        for name, values in scalars.items():
            scalars[name] = values.new_zeros(len(batches), *values.shape[1:])
            scalars[name][last_T] = values
        return state, scalars

    return segment


def _squares(network: Network, slot: Slot) -> tuple[Tensor, Tensor]:
    """The squared norms of an update's gradient and of its change."""
    gradient = network.gradient_rows[slot.gradient]
    square = torch.dot(gradient, gradient)
    # the gradient is no longer needed: the change takes its memory
    change = torch.sub(network.rows[slot.after], network.rows[slot.before], out=gradient)
    return square, torch.dot(change, change)


def _norms(network: Network, updates: int, squares: list[Tensor]) -> list[Tensor]:
    """The norms of gradient and change of each update of a stretch.

    They come from their squares, or from the updates that the network stores.
    """
    if not network.stores_updates:
        both = torch.stack(squares).view(-1, 2) if squares else network.stretch.new_zeros(0, 2)
        return list(both.sqrt_().unbind(1))
    before = network.stretch[:updates]
    after = network.stretch[1 : updates + 1]
    gradients = network.gradient[:updates]
    grad_norms = torch.linalg.vector_norm(gradients, dim=1)
    # the gradients are no longer needed: the changes take their memory
    changes = torch.sub(after, before, out=gradients)
    return [grad_norms, torch.linalg.vector_norm(changes, dim=1)]


def _losses(loss: Loss, state: State, batches: list[Batch]) -> Tensor:
    """The loss of each update that these batches complete; the state takes the rest."""
    parts = []
    end = 0
    for _, loaded_together in groupby(batches, key=lambda batch: id(batch.all_y_TB)):
        first, *others = loaded_together
        size = 1 + len(others)
        outputs_TKB = state.network.outputs_TKB[end : end + size]
        end += size
        together = slice(first.number, first.number + size)
        parts.append(MODULES[loss.name].mean_losses(loss, outputs_TKB, first, together))
    losses = torch.cat(parts)
    if state.accumulated is None:
        return losses
    total = state.loss
    complete = []
    for term, batch in zip(losses, batches):
        total[0] += term
        if batch.last:
            complete.append(total[0].clone())
            total[0] = 0
    return torch.stack(complete) if complete else losses[:0]


def make_evaluation(recipe: Recipe) -> Evaluation:
    """The evaluation of a state; `recipe` is an `update_rule`."""

    def metrics(network: Network, x_ND: Tensor, y_N: Tensor) -> Metrics:
        *_, outputs_NK = network.outputs(x_ND).values()
        mean = mean_loss(recipe.loss, outputs_NK, y_N, len(y_N))
        return metrics_of(mean, sums(recipe.loss, outputs_NK, y_N))

    @torch.inference_mode()
    def evaluation(
        state: State, train: Rows, held_out: Rows
    ) -> tuple[Metrics, Metrics, Parameters]:
        of_train = metrics(state.network, *train)
        of_held_out = metrics(state.network, *held_out)
        layers = state.network.outputs(held_out[0][:1])
        *_, outputs_1K = layers.values()
        layers |= link(recipe.loss, outputs_1K)
        dtype = outputs_1K.dtype
        prediction = {name: h_1H[0].to(dtype).cpu().numpy() for name, h_1H in layers.items()}
        return of_train, of_held_out, prediction

    return evaluation


def parameters_of(recipe: Recipe, state: State) -> Parameters:
    """The parameters, and running statistics if there are any, as canonical NumPy arrays."""
    tensors = state.network.named(state.network.rows[0])
    for name, (mean, variance) in state.network.statistics.items():
        tensors |= {f"{name}.mean": mean, f"{name}.var": variance}
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


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
        return _export_state(self.recipe, self.run)

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
    """Train on the recipe's data and record the run, as `pt_impl.train.train` does.

    `watch` asks for neither detail nor statistics, and its updates are not synchronised.
    """
    place = select_device(device)
    environment = describe_environment(place)
    recorder = RunRecorder(recipe, data, watch, backend="torch", environment=environment)
    data = data.cast(recipe.dtype)
    train_rows = load_rows(recipe.loss, data.train_x_ND, data.train_y_N, place)
    held_out_rows = load_rows(recipe.loss, data.held_out_x_ND, data.held_out_y_N, place)
    rows = train_rows, held_out_rows
    state = initial_state(recipe, data, place)
    segment = make_segment(recipe.update_rule)
    evaluate = make_evaluation(recipe.update_rule)
    if watch.resume is not None:
        _import_state(recipe, state, watch.resume)
    view = View(recipe, state, rows, evaluate)
    recorder.begin(view)
    draw = lru_cache(maxsize=1)(lambda epoch: (data.batches(epoch), data.masks(epoch)))
    units = data.train_x_ND.shape[1] + data.outputs + sum(recipe.model.hidden)
    at_once = max(1, ROOM // (data.batch * units))
    for part in recorder.segments():
        batches, masks = draw(part.epoch)
        parts = []
        for begin in range(part.start, part.stop, at_once):
            cut = slice(begin, min(begin + at_once, part.stop))
            some = Batches._make(array[cut] for array in batches)
            masks_of_some = [mask_TBH[cut] for mask_TBH in masks]
            loaded = load_batches(recipe, data, some, masks_of_some, place)
            state, scalars = segment(state, loaded)
            parts.append(scalars)
        view = View(recipe, state, rows, evaluate)
        series = {}
        for name in UPDATE_SERIES:
            series[name] = np.concatenate([scalars[name].cpu().numpy() for scalars in parts])
        recorder.record(series, view)
    return recorder.finish(view)


def _average(recipe: Recipe, state: State, updates: int) -> Parameters:
    """The average to read after that many updates."""
    if state.average is None:
        return {}
    weight = 1 - recipe.average.decay**updates if recipe.average.debias and updates else 1.0
    return {name: array / weight for name, array in _canonical(state, state.average).items()}


def _canonical(state: State, vector: Tensor) -> Parameters:
    return {name: part.cpu().numpy() for name, part in state.network.named(vector).items()}


def _vectors(state: State) -> dict[str, Tensor]:
    """Section of a checkpoint -> vector (n,), number for all, or rows or columns of a weight."""
    vectors = {f"optimizer/{slot}": vector for slot, vector in state.moments.items()}
    if state.average is not None:
        vectors["average"] = state.average
    if state.accumulated is not None:
        vectors["accumulated"] = state.accumulated
    return vectors


def _export_state(recipe: Recipe, state: State) -> Parameters:
    """Every array of the state, named as in a checkpoint."""
    trained = state.network.named(state.network.rows[0])
    arrays: Parameters = {}
    for name, array in parameters_of(recipe, state).items():
        arrays[f"{'parameters' if name in trained else 'statistics'}/{name}"] = array
    for section, vector in _vectors(state).items():
        if vector.ndim > 1:
            # the rows or columns of one weight, whose name the section has
            arrays[section] = vector.cpu().numpy()
        elif vector.ndim:
            for name, array in _canonical(state, vector).items():
                arrays[f"{section}/{name}"] = array
        else:
            number = vector.numpy().astype(recipe.dtype)
            arrays |= {f"{section}/{name}": number for name in trained}
    if state.accumulated is not None:
        arrays["accumulated/loss"] = state.loss[0].cpu().numpy()
    return arrays


def _import_state(recipe: Recipe, state: State, checkpoint: Checkpoint) -> None:
    """Replace the initial state's arrays by the checkpoint's."""
    network = state.network
    assert network.model is not None
    arrays = checkpoint.below("parameters") | checkpoint.below("statistics")
    parameters = {name: array.astype(recipe.dtype) for name, array in arrays.items()}
    import_parameters(network.model, parameters)
    for section, vector in _vectors(state).items():
        arrays = checkpoint.below(section)
        places = network.named(vector) if vector.ndim else dict.fromkeys(arrays, vector)
        for name in arrays.keys() & places.keys():
            places[name].copy_(torch.tensor(arrays[name]))
    # rows and columns of a weight, which the first update adds to a state
    for path, array in checkpoint.below("optimizer").items():
        if path.partition("/")[0] not in state.moments:
            like = network.stretch
            state.moments[path] = torch.tensor(array, dtype=like.dtype, device=like.device)
    if checkpoint.accumulated:
        state.loss[0] = float(checkpoint.arrays["accumulated/loss"])
    state.updates[0] = checkpoint.update
