"""A worker's side of the proof: train a twin with a fault in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

from lockstep.data_prep import PreparedData
from lockstep.prove.faults import FAULTS
from lockstep.recipe import Recipe
from lockstep.trace import Trace

__all__ = ["planting"]


def planting(
    train: Callable[..., Trace], planted: Callable[[str], AbstractContextManager[None]]
) -> Callable[..., Trace]:
    """A twin's `train` that takes the key of a fault too, "" for none.

    The trace says that it is of the right recipe and data, as that of a program with a fault does.

    Args:
        train: of the twin.
        planted: of the twin's `faults`.
    """

    def train_planted(recipe: Recipe, data: PreparedData, *, fault: str, **options: Any) -> Trace:
        chosen = FAULTS.get(fault)
        taken = recipe.with_values(chosen.wrong) if chosen else recipe
        fed = chosen.feed(recipe, data) if chosen and chosen.feed else data
        with planted(fault):
            trace = train(taken, fed, **options)
        said = {"recipe": asdict(recipe), "recipe_hash": recipe.hash, "data_hash": data.hash}
        return replace(trace, header=trace.header | said)

    return train_planted
