"""A contender made ready: it trains a whole run from its start, as often as it is asked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Average, Gradient, Loss, Recipe
from lockstep.recipe.optimizers.adam import AdamW
from lockstep.recipe.optimizers.sgd import Sgd

__all__ = ["Prepared", "Unable", "all_batches", "common_optimizer", "members_of", "require_common"]


class Unable(Exception):
    """The contender cannot train this recipe, or not here. The text says why it is skipped."""


@dataclass(frozen=True)
class Prepared:
    """A contender ready to go."""

    reset: Callable[[], None]
    """Goes back to the start; it is not timed."""
    run: Callable[[], None]
    """Trains from the start, and returns once the device has finished."""
    parameters: Callable[[], list[Parameters]] | None
    """Gives each member's parameters after the last run; None where nothing is trained."""
    environment: dict[str, Any]
    """Says what ran it: versions, device, threads."""
    trained: int = 1
    """How many members a run trains."""


def all_batches(data: PreparedData) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """All batches of the run: rows (T, B, D), targets (T, B), and how many rows count (T,)."""
    epochs = [data.batches(epoch) for epoch in range(data.epochs)]
    rows_TB = np.concatenate([epoch.rows_TB for epoch in epochs])
    return (
        data.train_x_ND[rows_TB],
        data.train_y_N[rows_TB],
        np.concatenate([epoch.count_T for epoch in epochs]),
    )


def require_common(recipe: Recipe) -> None:
    """Refuse a recipe that only the twins train.

    Raises:
        Unable: with the part of the recipe that a contender lacks.
    """
    model = recipe.model
    optimizer = recipe.optimizer
    if (
        recipe.loss != Loss()
        or model.activation != "relu"
        or model.norm != "none"
        or model.dropout
        or not model.bias
    ):
        raise Unable("has cross entropy over ReLU layers with biases, nothing else")
    if (
        recipe.gradient != Gradient()
        or recipe.average != Average()
        or recipe.training.compute != "same"
    ):
        raise Unable("has neither clipping, accumulation, averages nor mixed precision")
    numbers = ("momentum", "weight_decay", "beta1", "beta2", "eps")
    plain = {name: getattr(optimizer, name) for name in numbers if hasattr(optimizer, name)}
    if not isinstance(optimizer, Sgd | AdamW) or optimizer != type(optimizer)(**plain):
        raise Unable("has SGD with momentum and AdamW, without their variants")


def common_optimizer(recipe: Recipe) -> Sgd | AdamW:
    """The optimizer of a recipe that `require_common` accepts."""
    assert isinstance(recipe.optimizer, Sgd | AdamW)
    return recipe.optimizer


def members_of(blocks: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The parameters of each member, without the members that fill up the last block.

    Args:
        blocks: each maps a canonical name to the parameters of the block's members, stacked along
            the first axis.
        number: how many members there are.
    """
    members: list[dict[str, Any]] = []
    for block in blocks:
        size = len(next(iter(block.values())))
        members += [_take(block, s) for s in range(size)]
    return members[:number]


def _take(block: dict[str, Any], s: int) -> dict[str, Any]:
    return {name: array[s] for name, array in block.items()}
