"""One training run in a given arithmetic, update by update."""

from collections.abc import Collection, Generator
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
    "Step",
    "canonical",
    "evaluate",
    "initial_state",
    "rows_of",
    "start",
    "trajectory",
]

CHUNK = 1024  # rows evaluated at once: bounds the memory of wide layers over many rows


class State(NamedTuple):
    """Where a run is between two batches; arrays have a leading axis of members in the perturbed
    arithmetic.

    `accumulated` holds the gradients and the loss (..., 1, 1) of the update under way, empty
    between two updates; `average` is empty where none is kept; `batches` and `updates` are those
    done.
    """

    parameters: Parameters
    moments: dict[str, Moments]
    average: Parameters
    accumulated: Parameters
    batches: int
    updates: int
    statistics: Statistics


class Step(NamedTuple):
    """What is recorded of one update: scalars have shape () or (members,). `detail`, where it was
    asked for, is named as below `detail/<u>/` in a trace: an array for each batch, or one, with an
    axis of members where they have one."""

    update: int
    lr: float
    loss: Array
    grad_norm: Array
    update_norm: Array
    detail: dict[str, list[NDArray[Any]]]


def rows_of(recipe: Recipe, data: PreparedData) -> PreparedData:
    """The data as a run of the recipe sees it, in float64: rounded to its dtype, features to what
    it computes in.
    """
    seen = data.cast(recipe.dtype).cast(np.float64)
    if recipe.training.compute == "bfloat16":
        train_x_ND, held_out_x_ND = _to_bfloat16(seen.train_x_ND), _to_bfloat16(seen.held_out_x_ND)
        seen = replace(seen, train_x_ND=train_x_ND, held_out_x_ND=held_out_x_ND)
        seen.__dict__["hash"] = data.hash
    return seen


def _to_bfloat16(values: Array) -> Array:
    """Rounded to nearest, ties to even: bfloat16 is the upper half of a float32."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def start(data: PreparedData) -> Parameters:
    """Initial parameters, a vector as a single row."""
    return {name: np.atleast_2d(array) for name, array in data.parameters.items()}


def canonical(tensors: Parameters) -> dict[str, NDArray[Any]]:
    """Parameters or statistics, back to the shapes of a trace."""
    matrices = {name for name in tensors if name.startswith("linear") and name.endswith(".weight")}
    return {
        name: array if name in matrices else array[..., 0, :] for name, array in tensors.items()
    }


def initial_state(recipe: Recipe, parameters: Parameters) -> State:
    """The state before the first batch."""
    average = start_average(recipe.average, parameters)
    statistics = {
        name: np.atleast_2d(array) for name, array in initial_statistics(recipe.model).items()
    }
    return State(parameters, {name: {} for name in parameters}, average, {}, 0, 0, statistics)


def trajectory(
    recipe: Recipe,
    data: PreparedData,
    arithmetic: Exact,
    state: State,
    detail: Collection[int] = (),
) -> Generator[tuple[State, Step | None], State | None, None]:
    """Train on `data` (float64) from a state on and yield, after every batch, the state and the
    update that the batch completed, if any; with the detail of the updates in `detail`. A state
    that is sent takes the place of its own."""
    seen: dict[str, list[NDArray[Any]]] = {}
    tables = {
        layer: rates_T.tolist()
        for layer, rates_T in rate_tables(recipe, data.updates_per_epoch).items()
    }
    first, skipped = divmod(state.batches, data.batches_per_epoch)
    for epoch in range(first, data.epochs):
        batches, masks_TBH = data.batches(epoch), data.masks(epoch)
        numbered = enumerate(zip(*batches))
        for t, (rows_B, _, count, share, last) in list(numbered)[
            skipped if epoch == first else 0 :
        ]:
            used = rows_B[:count]
            x_BD, y_B = data.train_x_ND[used], data.train_y_N[used]
            masks = [mask_TBH[t, :count] for mask_TBH in masks_TBH]
            loss, gradients, passed = loss_and_gradients(
                recipe, state.parameters, x_BD, y_B, arithmetic, masks=masks
            )
            statistics = running_statistics(
                recipe.model, state.statistics, passed, int(count), arithmetic
            )
            terms = gradients | {"loss": loss[..., None, None]}
            accumulated = accumulate(state.accumulated, terms, float(share), arithmetic)
            state = state._replace(
                accumulated=accumulated, batches=state.batches + 1, statistics=statistics
            )
            if state.updates in detail:
                masked = {f"batch/mask{i}": mask_BH for i, mask_BH in enumerate(masks, start=1)}
                forwarded = {
                    f"forward/{layer}": array
                    for layer, array in passed.outputs.items()
                    if layer != "input"
                }
                for name, array in ({"batch/x": x_BD, "batch/y": y_B} | masked | forwarded).items():
                    seen.setdefault(name, []).append(array)
            step = None
            if last:
                state, step = _apply(recipe, tables, arithmetic, state)
                if seen:
                    step, seen = step._replace(detail=seen | step.detail), {}
            state = (yield state, step) or state


def _apply(
    recipe: Recipe, tables: dict[int, list[float]], arithmetic: Exact, state: State
) -> tuple[State, Step]:
    """One optimizer update with the accumulated gradient; the moments are changed in place."""
    optimizer, update, before = recipe.optimizer, state.updates, state.parameters
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
    changes = {name: parameters[name] - before[name] for name in parameters}
    average = update_average(recipe.average, state.average, parameters, arithmetic)
    detail = {f"gradients/{name}": [array] for name, array in canonical(gradients).items()}
    if recipe.gradient.clip != "none":
        detail |= {f"clip/{name}": [array] for name, array in canonical(clipped).items()}
    step = Step(
        update,
        tables[0][update],
        loss,
        norm(gradients, arithmetic),
        norm(changes, arithmetic),
        detail,
    )
    state = state._replace(
        parameters=parameters, average=average, accumulated={}, updates=update + 1
    )
    return state, step


def evaluate(
    parameters: Parameters,
    statistics: Statistics | None,
    x_ND: Array,
    y_N: Targets,
    recipe: Recipe,
    arithmetic: Exact,
) -> tuple[dict[str, Array], Array | None]:
    """The metrics (...) over all rows, and of classes the margins (..., N): how far the right
    answer leads. Without statistics batch normalisation takes those of the rows."""
    parts: dict[str, list[Array]] = {}
    for begin in range(0, len(y_N), CHUNK):
        y_B = y_N[begin : begin + CHUNK]
        x_BD = x_ND[begin : begin + CHUNK]
        passed = forward(recipe.model, parameters, x_BD, arithmetic, statistics=statistics)
        *_, outputs_BK = passed.outputs.values()
        rows = row_losses(recipe.loss, outputs_BK, y_B, arithmetic)
        found = {
            "loss": rows.loss_B,
            "weight": rows.weight_B,
            **answers(recipe.loss, outputs_BK, y_B, arithmetic),
        }
        for name, values_B in found.items():
            parts.setdefault(name, []).append(values_B)
    answered = {name: np.concatenate(values, axis=-1) for name, values in parts.items()}
    total = total_weight(recipe.loss, answered["weight"], arithmetic)
    loss = mean_loss(answered["loss"], total, arithmetic)
    return {"loss": loss, **metrics(recipe.loss, answered, y_N, arithmetic)}, answered.get("margin")
