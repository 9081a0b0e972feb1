"""What a contender is: something that trains a whole run from its start each time it is told."""

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
    """A contender has no form of what it is asked for, or not here; it is skipped, and this says
    why.
    """


@dataclass(frozen=True)
class Prepared:
    """A contender ready to go.

    `reset` goes back to the start, outside the clock; `run` trains from there and comes back once
    the device has finished; `parameters` are those of each member after the last run, None where
    nothing is trained; `environment` says what ran it; `trained` is how many members a run trains.
    """

    reset: Callable[[], None]
    run: Callable[[], None]
    parameters: Callable[[], list[Parameters]] | None
    environment: dict[str, Any]
    trained: int = 1


def all_batches(data: PreparedData) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Rows (T, B, D) and targets (T, B) of every batch of the run, and how many rows of each
    count.
    """
    epochs = [data.batches(epoch) for epoch in range(data.epochs)]
    rows_TB = np.concatenate([epoch.rows_TB for epoch in epochs])
    return (
        data.train_x_ND[rows_TB],
        data.train_y_N[rows_TB],
        np.concatenate([epoch.count_T for epoch in epochs]),
    )


def require_common(recipe: Recipe) -> None:
    """Refuse what only the twins train.

    Raises:
        Unable: says which part of the recipe.
    """
    model, optimizer = recipe.model, recipe.optimizer
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
    """The optimizer of a recipe that `require_common` does not refuse."""
    assert isinstance(recipe.optimizer, Sgd | AdamW)
    return recipe.optimizer


def members_of(blocks: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The parameters of each member, without those that filled up the last block.

    Args:
        blocks: canonical name -> the parameters of a block's members, stacked along the first axis.
        number: how many members there are.
    """
    members: list[dict[str, Any]] = []
    for block in blocks:
        size = len(next(iter(block.values())))
        members += [{name: array[s] for name, array in block.items()} for s in range(size)]
    return members[:number]
