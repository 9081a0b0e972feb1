"""The fast engine: the same mathematics as `train`, with nothing between the updates."""

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from lockstep.data_prep import Batches, Parameters, PreparedData
from lockstep.recipe import BinaryCrossEntropy, CrossEntropy, Huber, Loss, Recipe, SquaredError
from lockstep.records.checkpoint import Checkpoint
from lockstep.records.run_recorder import RunRecorder, Watch
from lockstep.records.trace import UPDATE_SERIES, Metrics, Trace, metrics_of
from lockstep.schedules.rate_tables import decays, layer_of, rate_tables
from pt_impl.fast.batches import Batch, load_batches, load_rows
from pt_impl.fast.network import Network
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


class State(NamedTuple):
    """What an update changes: here in place. Vectors (n,) have a place for every parameter, as in
    `Network.stretch`.

    `rates` has the learning rate of every update: a number, or with multipliers a vector with one
    for each layer, and `layers` then the layer of every parameter; `decayed` is 1 where weight
    decay acts, None where it acts on all; `loss` is that of the batches accumulated so far, `done`
    counts the updates, `counter` and `work` are room for
    that number and for vectors.
    """

    network: Network
    moments: dict[str, torch.Tensor]
    rates: list[Any]
    lr_T: torch.Tensor
    layers: torch.Tensor | None
    decayed: torch.Tensor | None
    accumulated: torch.Tensor | None
    loss: torch.Tensor
    average: torch.Tensor | None
    done: list[int]
    counter: torch.Tensor
    work: tuple[torch.Tensor, ...]


def initial_state(recipe: Recipe, data: PreparedData, device: torch.device) -> State:
    """The state before the first update; `data` is of the recipe's dtype, or a
    `lockstep.records.ensemble.stack`.
    """
    network = Network(recipe, data, device)
    parameters = network.rows[0]
    tables = {
        layer: torch.from_numpy(table_T)
        for layer, table_T in rate_tables(recipe, data.updates_per_epoch).items()
    }
    lr_T = tables.pop(0)
    rates, layers = lr_T.tolist(), None
    if tables:
        rates = list(torch.stack([*tables.values()], dim=1).to(device))
        # a layer for every parameter
        layers = _filled(network, lambda name: layer_of(name) - 1).long()
    decayed, average = None, None
    if recipe.optimizer.decay_on == "weights":
        decayed = _filled(network, lambda name: float(decays(recipe.optimizer, name)))
    if recipe.average.decay:
        average = (
            torch.zeros_like(parameters) if recipe.average.start == "zero" else parameters.clone()
        )
    return State(
        network,
        start_moments(recipe, parameters),
        rates,
        lr_T.to(parameters.dtype),
        layers,
        decayed,
        torch.zeros_like(parameters) if recipe.gradient.accumulate > 1 else None,
        parameters.new_zeros(1, *network.lead),
        average,
        [0],
        torch.zeros((), dtype=torch.float32, device=device),
        parameters.new_empty(3, len(parameters)).unbind(0),
    )


def _filled(network: Network, value: Any) -> torch.Tensor:
    """A vector with value(name) in the places of each parameter."""
    vector = torch.zeros_like(network.rows[0])
    for name, part in network.named(vector).items():
        part.fill_(value(name))
    return vector


def make_segment(recipe: Recipe, series: Sequence[str] = UPDATE_SERIES) -> Any:
    """Consecutive batches: (state, batches) -> state, scalars of each; `recipe` is an
    `update_rule`, and `series` says which scalars."""
    step, has_norms = make_step(recipe), "grad_norm" in series

    def stretch(state: State, batches: list[Batch]) -> list[torch.Tensor]:
        """As many batches as there is room for; the scalars of each update but its learning
        rate.
        """
        network, done = state.network, 0
        squares: list[torch.Tensor] = []
        for place, batch in enumerate(batches):
            slot = network.slots[done]
            network.gradients(slot, batch, place)
            if state.accumulated is not None:
                gradient = network.gradient_rows[slot.gradient]
                state.accumulated.add_(gradient)
                gradient.copy_(state.accumulated)
            if batch.last:
                step(state, slot)
                if has_norms and not network.keeps:
                    squares += _squares(network, slot)
                done += 1
                if state.accumulated is not None:
                    state.accumulated.zero_()
        found = [_losses(recipe.loss, state, batches)] if "loss" in series else []
        found += _norms(network, done, squares) if has_norms else []
        if done and (last := network.slots[done - 1].after):
            network.rows[0].copy_(network.rows[last])
        return found

    @torch.inference_mode()
    def segment(state: State, batches: list[Batch]) -> tuple[State, dict[str, torch.Tensor]]:
        many, begun = len(state.network.slots), state.done[0]
        parts = [
            stretch(state, batches[begin : begin + many]) for begin in range(0, len(batches), many)
        ]
        found = [torch.cat(updates) for updates in zip(*parts)]
        scalars = dict(zip(series, (state.lr_T[begun : state.done[0]], *found)))
        if state.accumulated is None:
            return state, scalars
        # zeros where a batch completes no update
        last_T = torch.tensor([batch.last for batch in batches])
        for name, values in scalars.items():
            scalars[name] = values.new_zeros(len(batches), *values.shape[1:])
            scalars[name][last_T] = values
        return state, scalars

    return segment


def _squares(network: Network, slot: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the norms of an update's gradient and of its change."""
    gradient = network.gradient_rows[slot.gradient]
    square = torch.dot(gradient, gradient)
    # the gradient is done with: in its place no new memory is asked for
    change = torch.sub(network.rows[slot.after], network.rows[slot.before], out=gradient)
    return square, torch.dot(change, change)


def _norms(network: Network, done: int, squares: list[torch.Tensor]) -> list[torch.Tensor]:
    """Norms of the gradient and of the change of each update of a stretch, from their squares or
    from what it keeps.
    """
    if not network.keeps:
        both = torch.stack(squares).view(-1, 2) if squares else network.stretch.new_zeros(0, 2)
        return list(both.sqrt_().unbind(1))
    before, after, gradients = (
        network.stretch[:done],
        network.stretch[1 : done + 1],
        network.gradient[:done],
    )
    grad_norms = torch.linalg.vector_norm(gradients, dim=1)
    # the gradients are done with, as above
    return [grad_norms, torch.linalg.vector_norm(torch.sub(after, before, out=gradients), dim=1)]


def _losses(loss: Loss, state: State, batches: list[Batch]) -> torch.Tensor:
    """The loss of each update that these batches complete; what is left over goes into the
    state.
    """
    parts, end = [], 0
    for _, run in groupby(batches, key=lambda batch: id(batch.all_y_TB)):
        first, *rest = run
        begin, end = end, end + 1 + len(rest)
        together = slice(first.number, first.number + end - begin)
        parts.append(_mean_losses(loss, state.network.outputs_TKB[begin:end], first, together))
    found = torch.cat(parts)
    if state.accumulated is None:
        return found
    total, complete = state.loss, []
    for term, batch in zip(found, batches):
        total[0] += term
        if batch.last:
            complete.append(total[0].clone())
            total[0] = 0
    return torch.stack(complete) if complete else found[:0]


def _mean_losses(
    loss: Loss, outputs_TKB: torch.Tensor, batch: Batch, together: slice
) -> torch.Tensor:
    """The loss of consecutive batches (T,), which are those places of all that were loaded with the
    one given.
    """
    if isinstance(loss, CrossEntropy):
        # the shift of a slope is what each class is to be, times -1: the sum is the mean cross
        # entropy
        shift_TKB = batch.all_shift_TKB[together]
        loss_TKB = torch.log_softmax(outputs_TKB, -2).mul_(shift_TKB)
        # a class that is not to be counts for nothing, also where its logit is -inf, as in
        # PyTorch's cross entropy
        loss_T = loss_TKB.masked_fill_(shift_TKB == 0, 0.0).sum(dim=(-2, -1))
        return (
            loss_T
            if batch.all_empty_T is None
            else loss_T.masked_fill_(batch.all_empty_T[together], torch.nan)
        )
    loss_TB = _row_losses(loss, outputs_TKB, batch.all_y_TB[together])
    if batch.all_used_TB is not None:
        loss_TB = torch.where(batch.all_used_TB[together], loss_TB, 0.0)
    return loss_TB.sum(dim=-1) * batch.all_share_T[together]


def _row_losses(loss: Loss, outputs_T1B: torch.Tensor, y_TB: torch.Tensor) -> torch.Tensor:
    """The loss of every row (T, B), times its weight."""
    output_TB = outputs_T1B.squeeze(-2)
    if isinstance(loss, BinaryCrossEntropy):
        positive = output_TB.new_tensor(loss.positive_weight)
        return functional.binary_cross_entropy_with_logits(
            output_TB, y_TB.to(output_TB.dtype), weight=None, reduction="none", pos_weight=positive
        )
    if isinstance(loss, Huber):
        return functional.huber_loss(output_TB, y_TB, reduction="none", delta=loss.delta)
    assert isinstance(loss, SquaredError)
    return functional.mse_loss(output_TB, y_TB, reduction="none")


def make_evaluation(recipe: Recipe) -> Any:
    """(state, train rows, held-out rows) -> the metrics of each, and what the first held-out row
    becomes in each
    layer; `recipe` is an `update_rule`."""

    @torch.inference_mode()
    def evaluation(state: State, train: Any, held_out: Any) -> Any:
        found = []
        for x_ND, y_N in (train, held_out):
            *_, outputs_NK = state.network.outputs(x_ND).values()
            found.append(
                metrics_of(
                    mean_loss(recipe.loss, outputs_NK, y_N, len(y_N)),
                    sums(recipe.loss, outputs_NK, y_N),
                )
            )
        layer_by_layer = state.network.outputs(held_out[0][:1])
        *_, outputs_1K = layer_by_layer.values()
        layer_by_layer |= link(recipe.loss, outputs_1K)
        dtype = outputs_1K.dtype
        return *found, {
            name: values_1H[0].to(dtype).cpu().numpy() for name, values_1H in layer_by_layer.items()
        }

    return evaluation


def parameters_of(recipe: Recipe, state: State) -> Parameters:
    """The parameters, and running statistics where there are any, in canonical names and layout, in
    NumPy.
    """
    found = state.network.named(state.network.rows[0])
    for name, (mean, variance) in state.network.statistics.items():
        found |= {f"{name}.mean": mean, f"{name}.var": variance}
    return {name: tensor.cpu().numpy() for name, tensor in found.items()}


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
        return _export_state(self.recipe, self.run)

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
        recipe, data, watch, backend="torch", environment=describe_environment(place)
    )
    data = data.cast(recipe.dtype)
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
        _import_state(recipe, state, watch.resume)
    view = View(recipe, state, rows, evaluate)
    recorder.begin(view)
    drawn = lru_cache(maxsize=1)(lambda epoch: (data.batches(epoch), data.masks(epoch)))
    many = max(
        1,
        ROOM // (data.batch * (data.train_x_ND.shape[1] + data.outputs + sum(recipe.model.hidden))),
    )
    for part in recorder.segments():
        batches, masks = drawn(part.epoch)
        parts = []
        for begin in range(part.start, part.stop, many):
            cut = slice(begin, min(begin + many, part.stop))
            chosen = (
                Batches._make(array[cut] for array in batches),
                [mask_TBH[cut] for mask_TBH in masks],
            )
            state, scalars = segment(state, load_batches(recipe, data, *chosen, place))
            parts.append(scalars)
        view = View(recipe, state, rows, evaluate)
        recorder.record(
            {
                name: np.concatenate([scalars[name].cpu().numpy() for scalars in parts])
                for name in UPDATE_SERIES
            },
            view,
        )
    return recorder.finish(view)


def _average(recipe: Recipe, state: State, updates: int) -> Parameters:
    """The average to read after that many updates."""
    if state.average is None:
        return {}
    weight = 1 - recipe.average.decay**updates if recipe.average.debias and updates else 1.0
    return {name: array / weight for name, array in _canonical(state, state.average).items()}


def _canonical(state: State, vector: torch.Tensor) -> Parameters:
    return {name: part.cpu().numpy() for name, part in state.network.named(vector).items()}


def _vectors(state: State) -> dict[str, torch.Tensor]:
    """What is kept of each parameter, by the section of a checkpoint: a vector, one number for all,
    or of a weight its rows or columns."""
    found = {f"optimizer/{slot}": vector for slot, vector in state.moments.items()}
    kept = {"average": state.average, "accumulated": state.accumulated}
    return found | {section: vector for section, vector in kept.items() if vector is not None}


def _export_state(recipe: Recipe, state: State) -> Parameters:
    """Every array of the state, named as in a checkpoint."""
    trained = state.network.named(state.network.rows[0])
    found = {
        f"{'parameters' if name in trained else 'statistics'}/{name}": a
        for name, a in parameters_of(recipe, state).items()
    }
    for section, vector in _vectors(state).items():
        if vector.ndim > 1:  # of one weight, by name
            found[section] = vector.cpu().numpy()
        elif vector.ndim:
            found |= {
                f"{section}/{name}": array for name, array in _canonical(state, vector).items()
            }
        else:
            found |= {f"{section}/{name}": vector.numpy().astype(recipe.dtype) for name in trained}
    if state.accumulated is not None:
        found["accumulated/loss"] = state.loss[0].cpu().numpy()
    return found


def _import_state(recipe: Recipe, state: State, checkpoint: Checkpoint) -> None:
    """Put what the checkpoint has in the place of the initial state."""
    network = state.network
    import_parameters(
        network.model,
        {
            name: array.astype(recipe.dtype)
            for section in ("parameters", "statistics")
            for name, array in checkpoint.below(section).items()
        },
    )
    for section, vector in _vectors(state).items():
        arrays = checkpoint.below(section)
        places = network.named(vector) if vector.ndim else dict.fromkeys(arrays, vector)
        for name in arrays.keys() & places.keys():
            places[name].copy_(torch.tensor(arrays[name]))
    # of the rows and columns of a weight, which a fresh state has not yet
    for path, array in checkpoint.below("optimizer").items():
        if path.partition("/")[0] not in state.moments:
            state.moments[path] = torch.tensor(
                array, dtype=network.stretch.dtype, device=network.stretch.device
            )
    if checkpoint.accumulated:
        state.loss[0] = float(checkpoint.arrays["accumulated/loss"])
    state.done[0] = checkpoint.update
