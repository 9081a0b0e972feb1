"""One training run in a given arithmetic, update by update."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData
from lockstep.groups import rate_of, rate_tables
from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.loss import Targets, answers, mean_loss, metrics, row_losses, total_weight
from lockstep.oracle.network import Parameters, forward, loss_and_gradients
from lockstep.oracle.optimizer import update_parameter
from lockstep.recipe import Recipe

__all__ = ["Step", "canonical", "evaluate", "rows_of", "start", "trajectory"]

CHUNK = 1024  # rows evaluated at once: bounds the memory of wide layers over many rows


class Step(NamedTuple):
    """One update: scalars have shape () or (members,), parameters and what they were before it likewise."""

    update: int
    lr: float
    loss: Array
    grad_norm: Array
    update_norm: Array
    parameters: Parameters


def rows_of(recipe: Recipe, data: PreparedData) -> PreparedData:
    """The data as a run of the recipe sees it, rounded to its dtype, in float64."""
    return data.cast(recipe.dtype).cast(np.float64)


def start(data: PreparedData) -> Parameters:
    """Initial parameters, a bias as a single row."""
    return {name: np.atleast_2d(array) for name, array in data.parameters.items()}


def canonical(parameters: Parameters) -> dict[str, NDArray[Any]]:
    """Back to the shapes of a trace."""
    return {name: array[..., 0, :] if name.endswith("bias") else array for name, array in parameters.items()}


def trajectory(recipe: Recipe, data: PreparedData, arithmetic: Exact, parameters: Parameters) -> Iterator[Step]:
    """Train from `parameters` on `data` (both float64) and yield every update."""
    optimizer = recipe.optimizer
    tables = {layer: rates_T.tolist() for layer, rates_T in rate_tables(recipe, data.updates_per_epoch).items()}
    moments: dict[str, Moments] = {name: {} for name in parameters}
    update = 0
    for epoch in range(data.epochs):
        batches = data.batches(epoch)
        for rows_B, count in zip(batches.rows_TB, batches.count_T):
            used = rows_B[:count]
            x_BD, y_B = data.train_x_ND[used], data.train_y_N[used]
            loss, gradients = loss_and_gradients(
                parameters, x_BD, y_B, recipe.model.activation, recipe.loss, arithmetic
            )
            before = parameters
            parameters = {
                name: update_parameter(
                    name,
                    optimizer,
                    tables[rate_of(optimizer, name)][update],
                    update,
                    before[name],
                    gradient,
                    moments[name],
                    arithmetic,
                )
                for name, gradient in sorted(gradients.items())
            }
            changes = {name: parameters[name] - before[name] for name in parameters}
            yield Step(
                update, tables[0][update], loss, _norm(gradients, arithmetic), _norm(changes, arithmetic), parameters
            )
            update += 1


def evaluate(
    parameters: Parameters, x_ND: Array, y_N: Targets, recipe: Recipe, arithmetic: Exact
) -> tuple[dict[str, Array], Array | None]:
    """The metrics (...) over all rows, and of classes the margins (..., N): how far the right answer leads."""
    parts: dict[str, list[Array]] = {}
    for begin in range(0, len(y_N), CHUNK):
        y_B = y_N[begin : begin + CHUNK]
        *_, outputs_BK = forward(parameters, x_ND[begin : begin + CHUNK], recipe.model.activation, arithmetic).values()
        rows = row_losses(recipe.loss, outputs_BK, y_B, arithmetic)
        found = {"loss": rows.loss_B, "weight": rows.weight_B, **answers(recipe.loss, outputs_BK, y_B, arithmetic)}
        for name, values_B in found.items():
            parts.setdefault(name, []).append(values_B)
    answered = {name: np.concatenate(values, axis=-1) for name, values in parts.items()}
    total = total_weight(recipe.loss, answered["weight"], arithmetic)
    loss = mean_loss(answered["loss"], total, arithmetic)
    return {"loss": loss, **metrics(recipe.loss, answered, y_N, arithmetic)}, answered.get("margin")


def _norm(tensors: Parameters, arithmetic: Exact) -> Array:
    squares = np.stack([np.square(tensor).sum(axis=(-2, -1)) for tensor in tensors.values()])
    return arithmetic.round(np.sqrt(squares.sum(axis=0))[..., None, None])[..., 0, 0]
