"""Train a recipe and record it."""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Loss, Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.trace import BUDGET_MIB, UPDATE_SERIES, Metrics, Progress, RunRecorder, Trace, metrics_of
from lockstep.schedules.rate_tables import rate_tables
from pt_impl.average import export_average, start_average, update_average
from pt_impl.gradient import clip, norm
from pt_impl.io.checkpoint import export_state, import_state
from pt_impl.io.detail import detail_of_batch, detail_of_gradients
from pt_impl.io.device import describe_environment, select_device
from pt_impl.loss import mean_loss, sums
from pt_impl.model import MLP, build_model, export_parameters
from pt_impl.optimizer import learning_rate, make_optimizer
from pt_impl.predict import trace_prediction
from pt_impl.schedule import make_schedule

__all__ = ["Batch", "State", "evaluate", "initial_state", "load_batches", "make_segment", "make_update", "train"]


class State(NamedTuple):
    """What an update changes: here in place. `loss` is that of the batches accumulated so far; their gradients lie
    with the parameters."""

    model: MLP
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    loss: torch.Tensor | None
    average: AveragedModel | None


class Batch(NamedTuple):
    """Rows of one batch, how many of them count, the batch's share of its update, whether it completes it, and the
    dropout mask of each hidden layer."""

    x_BD: torch.Tensor
    y_B: torch.Tensor
    used: int
    share: float
    last: bool
    masks: list[torch.Tensor]


def initial_state(recipe: Recipe, data: PreparedData, device: torch.device) -> State:
    """The state before the first update; `data` is of the recipe's dtype."""
    tables = rate_tables(recipe, data.updates_per_epoch)
    schedules = {layer: make_schedule(table_T) for layer, table_T in tables.items()}
    model = build_model(recipe, data, device)
    optimizer, scheduler = make_optimizer(recipe.optimizer, schedules, dict(model.named_parameters()))
    return State(model, optimizer, scheduler, None, start_average(recipe.average, model))


def load_batches(data: PreparedData, epoch: int, device: torch.device) -> list[Batch]:
    """The batches of an epoch, counted from 0, on the device."""
    batches = data.batches(epoch)
    x_ND, y_N = torch.from_numpy(data.train_x_ND).to(device), torch.from_numpy(data.train_y_N).to(device)
    rows_TB = torch.from_numpy(batches.rows_TB).to(device)
    scalars = (batches.count_T.tolist(), batches.share_T.tolist(), batches.last_T.tolist())
    masks = [torch.from_numpy(mask_TBH).to(device) for mask_TBH in data.masks(epoch)]
    return [
        Batch(x_ND[rows[:count]], y_N[rows[:count]], count, share, last, [mask_TBH[t, :count] for mask_TBH in masks])
        for t, (rows, count, share, last) in enumerate(zip(rows_TB, *scalars))
    ]


def make_update(recipe: Recipe, detail: bool = False) -> Any:
    """One batch of the recipe, and the update that it completes: (state, batch) -> state, scalars; zeros where it
    completes none. With `detail` the scalars are joined by what `RunRecorder.record_detail` takes."""

    def update(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        outputs = state.model.outputs(batch.x_BD, batch.masks)
        *_, outputs_BK = outputs.values()
        loss = mean_loss(recipe.loss, outputs_BK, batch.y_B, batch.used)
        seen = detail_of_batch(batch, outputs) if detail else {}
        if recipe.gradient.accumulate > 1:
            loss = loss * batch.share
        loss.backward()  # adds to the gradients of the update's batches before this one
        loss = loss.detach() if state.loss is None else state.loss + loss.detach()
        state, scalars = apply(state._replace(loss=loss)) if batch.last else wait(state._replace(loss=loss))
        return state, scalars | seen

    def wait(state: State) -> tuple[State, dict[str, Any]]:
        assert state.loss is not None
        return state, dict.fromkeys(UPDATE_SERIES, torch.zeros_like(state.loss))

    def apply(state: State) -> tuple[State, dict[str, Any]]:
        model, optimizer, scheduler, loss, average = state
        parameters = list(model.parameters())
        before = [parameter.detach().clone() for parameter in parameters]
        lr = learning_rate(optimizer, scheduler.lr_lambdas[0])
        grad_norm = norm([parameter.grad for parameter in parameters])
        seen = detail_of_gradients("gradients", model) if detail else {}
        clip(recipe.gradient, parameters)
        if detail and recipe.gradient.clip != "none":
            seen |= detail_of_gradients("clip", model)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        average = update_average(recipe.average, average, model)
        changes = [parameter.detach() - old for parameter, old in zip(parameters, before)]
        scalars = {"lr": lr, "loss": loss, "grad_norm": grad_norm, "update_norm": norm(changes)}
        return state._replace(loss=None, average=average), scalars | seen

    return update


def make_segment(recipe: Recipe, detail: bool = False) -> Any:
    """Consecutive batches: (state, batches) -> state, scalars of each; `recipe` is an `update_rule`."""
    update = make_update(recipe, detail)

    def segment(state: State, batches: list[Batch]) -> tuple[State, dict[str, Any]]:
        found: dict[str, list[Any]] = {}
        for batch in batches:
            state, scalars = update(state, batch)
            for name, value in scalars.items():
                found.setdefault(name, []).append(value)
        dtype = found["loss"][0].dtype
        rates_T = torch.tensor(found.pop("lr"), dtype=dtype)
        scalars = {name: torch.stack(found.pop(name)) for name in UPDATE_SERIES if name in found}
        return state, {"lr": rates_T} | scalars | found

    return segment


@torch.no_grad()
def evaluate(loss: Loss, state: State, x_ND: torch.Tensor, y_N: torch.Tensor) -> Metrics:
    """Loss and other metrics over all rows."""
    state.model.eval()
    outputs_NK = state.model(x_ND)
    state.model.train()
    return metrics_of(mean_loss(loss, outputs_NK, y_N, len(y_N)), sums(loss, outputs_NK, y_N))


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
        backend="torch",
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
    train_rows, held_out_rows = (
        (torch.from_numpy(x_ND).to(place), torch.from_numpy(y_N).to(place))
        for x_ND, y_N in ((data.train_x_ND, data.train_y_N), (data.held_out_x_ND, data.held_out_y_N))
    )
    state = initial_state(recipe, data, place)
    segment, detailed = make_segment(recipe.update_rule), make_segment(recipe.update_rule, detail=True)
    if resume is not None:
        state = import_state(recipe, state, resume)
    recorder.record_parameters(_parameters(state), export_average(recipe.average, state.average, recorder.done))
    loaded = -1
    for epoch, start, stop in recorder.segments():
        if epoch != loaded:
            batches, loaded = load_batches(data, epoch, place), epoch
        if recorder.given is not None:
            state = import_state(recipe, state, recorder.given)
        state, scalars = (detailed if recorder.is_detailed else segment)(state, batches[start:stop])
        recorder.record_segment({name: scalars[name].cpu().numpy() for name in UPDATE_SERIES})
        if recorder.is_detailed:
            recorder.record_detail(scalars, export_state(recipe, state))
        average = export_average(recipe.average, state.average, recorder.done)
        recorder.record_parameters(_parameters(state), average)
        if recorder.checkpoint_is_due:
            recorder.save_checkpoint(export_state(recipe, state))
        if stop == data.batches_per_epoch:
            parts = (train_rows, held_out_rows)
            recorder.record_epoch(*(evaluate(recipe.loss, state, *rows) for rows in parts))
    return recorder.finish(trace_prediction(recipe.loss, state.model, held_out_rows[0][:1]))


def _parameters(state: State) -> Parameters:
    return export_parameters(state.model)
