"""Train a recipe and record it."""

from collections.abc import Callable
from functools import lru_cache, partial

import torch

from lockstep.data_prep import PreparedData
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint
from lockstep.records.run_recorder import RunRecorder, Watch
from lockstep.records.trace import Trace
from lockstep.schedules.rate_tables import rate_tables

from .average import start_average
from .io.checkpoint import import_state
from .io.detail import watching
from .io.device import describe_environment, select_device
from .io.view import View
from .model import build_model
from .optimizer import make_optimizer
from .predict import load_rows
from .schedule import make_schedule
from .update import Batch, Scalars, State, make_update

__all__ = ["initial_state", "load_batches", "make_segment", "train"]


def initial_state(recipe: Recipe, data: PreparedData, device: torch.device) -> State:
    """The state before the first update; `data` is of the recipe's dtype."""
    tables = rate_tables(recipe, data.updates_per_epoch)
    schedules = {layer: make_schedule(table_T) for layer, table_T in tables.items()}
    model = build_model(recipe, data, device)
    parameters = dict(model.named_parameters())
    optimizer, scheduler = make_optimizer(recipe.optimizer, schedules, parameters)
    average = start_average(recipe.average, model)
    return State(model, optimizer, scheduler, None, average)


def load_batches(data: PreparedData, epoch: int, device: torch.device) -> list[Batch]:
    """The batches of an epoch, counted from 0, on the device."""
    rows_TB, _, count_T, share_T, last_T = data.batches(epoch)
    x_ND = torch.from_numpy(data.train_x_ND).to(device)
    y_N = torch.from_numpy(data.train_y_N).to(device)
    masks = [torch.from_numpy(mask_TBH).to(device) for mask_TBH in data.masks(epoch)]
    row_numbers = torch.from_numpy(rows_TB).to(device)
    scalars = zip(count_T.tolist(), share_T.tolist(), last_T.tolist())
    batches = []
    for t, (count, share, last) in enumerate(scalars):
        rows_B = row_numbers[t, :count]
        masks_of_t = [mask_TBH[t, :count] for mask_TBH in masks]
        batches.append(Batch(x_ND[rows_B], y_N[rows_B], count, share, last, masks_of_t))
    return batches


def make_segment(recipe: Recipe) -> Callable[[State, list[Batch]], tuple[State, Scalars]]:
    """Consecutive batches, one after another; `recipe` is an `update_rule`."""
    update = make_update(recipe)

    def segment(state: State, batches: list[Batch]) -> tuple[State, Scalars]:
        rows = []
        for batch in batches:
            state, scalars = update(state, batch)
            rows.append(scalars)
        lrs, losses, grad_norms, update_norms = zip(*rows)
        loss_T = torch.stack(losses)
        lr_T = torch.tensor(lrs, dtype=loss_T.dtype)
        return state, Scalars(lr_T, loss_T, torch.stack(grad_norms), torch.stack(update_norms))

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
    recorder = RunRecorder(recipe, data, watch, backend="torch", environment=environment)
    return _train(recipe, data.cast(recipe.dtype), place, recorder, watch.resume)


def _train(
    recipe: Recipe,
    data: PreparedData,
    device: torch.device,
    recorder: RunRecorder,
    resume: Checkpoint | None,
) -> Trace:
    state = initial_state(recipe, data, device)
    rows = load_rows(data, device)
    load = lru_cache(maxsize=1)(partial(load_batches, data, device=device))
    segment = make_segment(recipe.update_rule)
    if resume is not None:
        state = import_state(recipe, state, resume)
    view = View(recipe, state, rows, {})
    recorder.begin(view)
    for part in recorder.segments():
        if part.given is not None:
            state = import_state(recipe, state, part.given)
        batches = load(epoch=part.epoch)[part.start : part.stop]
        with watching(recipe, state, batches if part.is_detailed else ()) as detail:
            state, scalars = segment(state, batches)
        view = View(recipe, state, rows, detail)
        series = {name: values.cpu().numpy() for name, values in scalars._asdict().items()}
        recorder.record(series, view)
    return recorder.finish(view)
