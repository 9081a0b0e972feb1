"""One training run in a given arithmetic, update by update."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData
from lockstep.groups import rate_of, rate_tables
from lockstep.oracle.arithmetic import Array, Exact, Moments
from lockstep.oracle.network import Labels, Parameters, cross_entropy, forward, loss_and_gradients, mean_loss
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
            loss, gradients = loss_and_gradients(parameters, x_BD, y_B, recipe.model.activation, arithmetic)
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
    parameters: Parameters, x_ND: Array, y_N: Labels, activation: str, arithmetic: Exact
) -> tuple[Array, NDArray[np.bool_], Array]:
    """Mean loss (...), right answers (..., N) and margins (..., N): how far the right logit leads the others."""
    losses, answers, margins = [], [], []
    for begin in range(0, len(y_N), CHUNK):
        y_B = y_N[begin : begin + CHUNK]
        *_, logits_BK = forward(parameters, x_ND[begin : begin + CHUNK], activation, arithmetic).values()
        losses.append(cross_entropy(logits_BK, y_B, arithmetic)[0])
        # as both frameworks do: the first of equal logits, and a NaN counts as the largest
        answers.append(logits_BK.argmax(axis=-1) == y_B)
        right_BK = np.eye(logits_BK.shape[-1], dtype=bool)[y_B]
        right = np.where(right_BK, logits_BK, -np.inf).max(axis=-1)
        margins.append(right - np.where(right_BK, -np.inf, logits_BK).max(axis=-1))
    loss_N, right_N, margin_N = (np.concatenate(parts, axis=-1) for parts in (losses, answers, margins))
    return mean_loss(loss_N, arithmetic), right_N, margin_N


def _norm(tensors: Parameters, arithmetic: Exact) -> Array:
    squares = np.stack([np.square(tensor).sum(axis=(-2, -1)) for tensor in tensors.values()])
    return arithmetic.round(np.sqrt(squares.sum(axis=0))[..., None, None])[..., 0, 0]
