"""One training run in a given arithmetic, update by update."""

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData, initial_statistics
from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.average import start_average, update_average
from lockstep.oracle.gradient import accumulate, clip, norm
from lockstep.oracle.loss import Targets, answers, mean_loss, metrics, row_losses, total_weight
from lockstep.oracle.network import (
    Parameters,
    Statistics,
    forward,
    loss_and_gradients,
    running_statistics,
)
from lockstep.oracle.optimizer import update_parameter
from lockstep.recipe import Recipe
from lockstep.schedules.rate_tables import rate_of, rate_tables

__all__ = [
    "State",
    "UpdateRecord",
    "canonical",
    "evaluate",
    "initial_state",
    "rows_of",
    "start",
    "trajectory",
]

CHUNK = 1024  # rows evaluated at once: bounds the memory of wide layers over many rows

Detail = dict[str, list[NDArray[Any]]]
"""Name below `detail/<u>/` in a trace -> an array for each batch, or one. Arrays have an axis of
members in the perturbed arithmetic."""


class State(NamedTuple):
    """Where a run is between two batches. Arrays have a leading axis of members in the perturbed
    arithmetic.

    `accumulated` holds the gradients and the loss (..., 1, 1) of the update under way, and is empty
    between two updates. `average` is empty where none is kept. `batches` and `updates` are the
    numbers of those done.
    """

    parameters: Parameters
    moments: dict[str, Moments]
    average: Parameters
    accumulated: Parameters
    batches: int
    updates: int
    statistics: Statistics


class UpdateRecord(NamedTuple):
    """What is recorded of one update: scalars of shape () or (members,), and its detail, where it
    was asked for.
    """

    update: int
    lr: float
    loss: Array
    grad_norm: Array
    update_norm: Array
    detail: Detail


class _Batch(NamedTuple):
    """One batch: its rows x (B, D) and y (B,), the dropout masks (B, units), its share of the mean
    gradient, and whether it is the last of its update.
    """

    x_BD: Array
    y_B: Targets
    masks: Sequence[NDArray[np.bool_]]
    share: float
    is_last: bool


def rows_of(recipe: Recipe, data: PreparedData) -> PreparedData:
    """The data as a run of the recipe uses it, in float64: rounded to its dtype, features to the
    dtype that it computes in.
    """
    rounded = data.cast(recipe.dtype).cast(np.float64)
    if recipe.training.compute == "bfloat16":
        rounded = replace(
            rounded,
            train_x_ND=_to_bfloat16(rounded.train_x_ND),
            held_out_x_ND=_to_bfloat16(rounded.held_out_x_ND),
        )
        rounded.__dict__["hash"] = data.hash
    return rounded


def _to_bfloat16(values: Array) -> Array:
    """The values rounded to nearest, ties to even: bfloat16 is the upper half of a float32."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def start(data: PreparedData) -> Parameters:
    """Initial parameters, a vector as a single row."""
    return {name: np.atleast_2d(array) for name, array in data.parameters.items()}


def canonical(tensors: Parameters) -> Parameters:
    """Parameters or statistics, back to the shapes of a trace."""
    shaped: Parameters = {}
    for name, array in tensors.items():
        is_matrix = name.startswith("linear") and name.endswith(".weight")
        shaped[name] = array if is_matrix else array[..., 0, :]
    return shaped


def initial_state(recipe: Recipe, parameters: Parameters) -> State:
    """The state before the first batch."""
    statistics = initial_statistics(recipe.model)
    return State(
        parameters=parameters,
        moments={name: {} for name in parameters},
        average=start_average(recipe.average, parameters),
        accumulated={},
        batches=0,
        updates=0,
        statistics={name: np.atleast_2d(array) for name, array in statistics.items()},
    )


def trajectory(
    recipe: Recipe,
    data: PreparedData,
    arithmetic: Exact,
    state: State,
    detail: Collection[int] = (),
) -> Generator[tuple[State, UpdateRecord | None], State | None, None]:
    """Train batch by batch.

    Args:
        recipe: what to train.
        data: in float64, from `rows_of`.
        arithmetic: exact or perturbed.
        state: where to begin.
        detail: the updates to record in detail.

    Yields:
        after every batch the state, and the record of the update that the batch completed, None
        where it completed none. A state that is sent takes the place of the run's own.
    """
    tables = {
        layer: rates_T.tolist()
        for layer, rates_T in rate_tables(recipe, data.updates_per_epoch).items()
    }
    of_batches: Detail = {}
    for batch in _batches(data, state.batches):
        is_detailed = state.updates in detail
        state, arrays = _accumulate(recipe, arithmetic, state, batch)
        if is_detailed:
            for name, array in arrays.items():
                of_batches.setdefault(name, []).append(array)
        record = None
        if batch.is_last:
            state, record = _apply(recipe, tables, arithmetic, state)
            if of_batches:
                record = record._replace(detail=of_batches | record.detail)
                of_batches = {}
        state = (yield state, record) or state


def _batches(data: PreparedData, skipped: int) -> Iterator[_Batch]:
    """The batches of a run, without the first ones."""
    first_epoch, first_batch = divmod(skipped, data.batches_per_epoch)
    for epoch in range(first_epoch, data.epochs):
        batches = data.batches(epoch)
        masks_TBH = data.masks(epoch)
        begin = first_batch if epoch == first_epoch else 0
        for t in range(begin, len(batches.rows_TB)):
            count = batches.count_T[t]
            rows_B = batches.rows_TB[t, :count]
            yield _Batch(
                x_BD=data.train_x_ND[rows_B],
                y_B=data.train_y_N[rows_B],
                masks=[mask_TBH[t, :count] for mask_TBH in masks_TBH],
                share=float(batches.share_T[t]),
                is_last=bool(batches.last_T[t]),
            )


def _accumulate(
    recipe: Recipe, arithmetic: Exact, state: State, batch: _Batch
) -> tuple[State, dict[str, NDArray[Any]]]:
    """The state with a batch's gradients in it, and the detail of the batch."""
    loss, gradients, passed = loss_and_gradients(
        recipe, state.parameters, batch.x_BD, batch.y_B, arithmetic, masks=batch.masks
    )
    statistics = running_statistics(
        recipe.model, state.statistics, passed, len(batch.y_B), arithmetic
    )
    terms = gradients | {"loss": loss[..., None, None]}
    state = state._replace(
        accumulated=accumulate(state.accumulated, terms, batch.share, arithmetic),
        batches=state.batches + 1,
        statistics=statistics,
    )
    detail = {"batch/x": batch.x_BD, "batch/y": batch.y_B}
    for i, mask_BH in enumerate(batch.masks, start=1):
        detail[f"batch/mask{i}"] = mask_BH
    for layer, array in passed.outputs.items():
        if layer != "input":
            detail[f"forward/{layer}"] = array
    return state, detail


def _apply(
    recipe: Recipe, tables: dict[int, list[float]], arithmetic: Exact, state: State
) -> tuple[State, UpdateRecord]:
    """One optimizer update with the accumulated gradient; the moments are changed in place."""
    optimizer = recipe.optimizer
    update = state.updates
    before = state.parameters
    gradients = dict(sorted(state.accumulated.items()))
    loss = gradients.pop("loss")[..., 0, 0]
    clipped = clip(recipe.gradient, gradients, arithmetic)
    parameters = {
        name: update_parameter(
            name,
            optimizer,
            tables[rate_of(optimizer, name)][update],
            update,
            before[name],
            gradient,
            state.moments[name],
            arithmetic,
        )
        for name, gradient in clipped.items()
    }
    changes = {name: array - before[name] for name, array in parameters.items()}
    average = update_average(recipe.average, state.average, parameters, arithmetic)
    detail: Detail = {f"gradients/{name}": [array] for name, array in canonical(gradients).items()}
    if recipe.gradient.clip != "none":
        detail |= {f"clip/{name}": [array] for name, array in canonical(clipped).items()}
    record = UpdateRecord(
        update=update,
        lr=tables[0][update],
        loss=loss,
        grad_norm=norm(gradients, arithmetic),
        update_norm=norm(changes, arithmetic),
        detail=detail,
    )
    state = state._replace(
        parameters=parameters, average=average, accumulated={}, updates=update + 1
    )
    return state, record


def evaluate(
    parameters: Parameters,
    statistics: Statistics | None,
    x_ND: Array,
    y_N: Targets,
    recipe: Recipe,
    arithmetic: Exact,
) -> tuple[dict[str, Array], Array | None]:
    """The metrics (...) over all rows, and for classes the margins (..., N): how far the right
    answer leads. Without statistics batch normalisation takes those of the rows.
    """
    chunks: dict[str, list[Array]] = {}
    for begin in range(0, len(y_N), CHUNK):
        y_B = y_N[begin : begin + CHUNK]
        x_BD = x_ND[begin : begin + CHUNK]
        passed = forward(recipe.model, parameters, x_BD, arithmetic, statistics=statistics)
        *_, outputs_BK = passed.outputs.values()
        rows = row_losses(recipe.loss, outputs_BK, y_B, arithmetic)
        of_chunk = {"loss": rows.loss_B, "weight": rows.weight_B}
        of_chunk |= answers(recipe.loss, outputs_BK, y_B, arithmetic)
        for name, values_B in of_chunk.items():
            chunks.setdefault(name, []).append(values_B)
    answered = {name: np.concatenate(values, axis=-1) for name, values in chunks.items()}
    total = total_weight(recipe.loss, answered["weight"], arithmetic)
    loss = mean_loss(answered["loss"], total, arithmetic)
    of_answers = metrics(recipe.loss, answered, y_N, arithmetic)
    return {"loss": loss, **of_answers}, answered.get("margin")
