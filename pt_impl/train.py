"""Train a recipe and record it."""

from collections.abc import Callable
from functools import lru_cache, partial

import torch

from lockstep.data_prep import PreparedData
from lockstep.recipe import Recipe
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
    optimizer, scheduler = make_optimizer(
        recipe.optimizer, schedules, dict(model.named_parameters())
    )
    return State(model, optimizer, scheduler, None, start_average(recipe.average, model))


def load_batches(data: PreparedData, epoch: int, device: torch.device) -> list[Batch]:
    """The batches of an epoch, counted from 0, on the device."""
    batches = data.batches(epoch)
    x_ND, y_N = (
        torch.from_numpy(data.train_x_ND).to(device),
        torch.from_numpy(data.train_y_N).to(device),
    )
    rows_TB = torch.from_numpy(batches.rows_TB).to(device)
    scalars = (batches.count_T.tolist(), batches.share_T.tolist(), batches.last_T.tolist())
    masks = [torch.from_numpy(mask_TBH).to(device) for mask_TBH in data.masks(epoch)]
    return [
        Batch(
            x_ND[rows[:count]],
            y_N[rows[:count]],
            count,
            share,
            last,
            [mask_TBH[t, :count] for mask_TBH in masks],
        )
        for t, (rows, count, share, last) in enumerate(zip(rows_TB, *scalars))
    ]


def make_segment(recipe: Recipe) -> Callable[[State, list[Batch]], tuple[State, Scalars]]:
    """Consecutive batches, one after another; `recipe` is an `update_rule`."""
    update = make_update(recipe)

    def segment(state: State, batches: list[Batch]) -> tuple[State, Scalars]:
        rows = []
        for batch in batches:
            state, scalars = update(state, batch)
            rows.append(scalars)
        lr_T, *others = zip(*rows)
        loss_T, grad_norm_T, update_norm_T = map(torch.stack, others)
        return state, Scalars(
            torch.tensor(lr_T, dtype=loss_T.dtype), loss_T, grad_norm_T, update_norm_T
        )

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
    recorder = RunRecorder(
        recipe, data, watch, backend="torch", environment=describe_environment(place)
    )
    data = data.cast(recipe.dtype)
    state = initial_state(recipe, data, place)
    rows = load_rows(data, place)
    load = lru_cache(maxsize=1)(partial(load_batches, data, device=place))
    segment = make_segment(recipe.update_rule)
    if watch.resume is not None:
        state = import_state(recipe, state, watch.resume)
    view = View(recipe, state, rows, {})
    recorder.begin(view)
    for part in recorder.segments():
        if part.given is not None:
            state = import_state(recipe, state, part.given)
        batches = load(epoch=part.epoch)[part.start : part.stop]
        with watching(recipe, state, batches if part.is_detailed else ()) as detail:
            state, scalars = segment(state, batches)
        view = View(recipe, state, rows, detail)
        recorder.record(
            {name: values.cpu().numpy() for name, values in scalars._asdict().items()}, view
        )
    return recorder.finish(view)
