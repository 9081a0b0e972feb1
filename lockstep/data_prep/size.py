"""The memory that a recipe needs, by arithmetic; a recipe that cannot fit is refused at once."""

from lockstep.data_prep.draws import layer_sizes
from lockstep.data_prep.prepared import updates_per_epoch
from lockstep.files.memory import refuse_too_large
from lockstep.recipe import Data, Recipe

__all__ = ["refuse_rows", "refuse_training"]

NUMBER = 8
"""Bytes of a float64."""
TABLES = 3
"""Copies of the rows: as drawn, as split and as standardised."""
SERIES = 3
"""Numbers of an update: its rate, the time that the rate is computed from, and a recorded one."""
NETWORKS = 2
"""Copies of the network: parameters and gradients."""
EPOCH = 300
"""Bytes of an epoch whose order is yet to be drawn."""
NAME = 60
"""Bytes of a column's name."""


def refuse_rows(data: Data, numbers: bool) -> None:
    """Raise InputError if the rows to draw, `data.rows` and those held out, do not fit into memory.

    Args:
        data: the rows to draw.
        numbers: whether the target is a number, and no class.
    """
    rows = data.rows + round(data.rows * data.held_out)
    needed = data.features * (TABLES * NUMBER * rows + NAME)
    if not numbers:
        # scikit-learn multiplies each class by a square matrix
        needed += NUMBER * ((data.features + 1) // 2) ** 2
    refuse_too_large(
        f"data: {rows:,} rows (data.rows) of {data.features:,} features (data.features)", needed
    )


def refuse_training(recipe: Recipe, rows: int, inputs: int, outputs: int) -> None:
    """Raise InputError if the network, a batch in it or the run's series do not fit into memory.

    Args:
        recipe: what to train.
        rows: the number of training rows.
        inputs: the number of features.
        outputs: the number of output units.
    """
    training = recipe.training
    hidden = recipe.model.hidden
    layers = layer_sizes(inputs, hidden, outputs)
    numbers = sum((fan_in + 1) * fan_out for _, fan_in, fan_out in layers)
    units = ", ".join(f"{size:,}" for size in (inputs, *hidden, outputs))
    refuse_too_large(
        f"model.hidden: {numbers:,} parameters of layers of {units} units",
        NETWORKS * NUMBER * numbers,
    )
    outputs_of_batch = NUMBER * training.batch * sum(hidden)
    masks = rows * sum(hidden) if recipe.model.dropout else 0
    refuse_too_large(
        f"training.batch: {training.batch:,} rows in layers of {units} units",
        outputs_of_batch + masks,
    )
    batches = updates_per_epoch(rows, training.batch, drop_last=training.drop_last)
    updates = training.epochs * -(-batches // recipe.gradient.accumulate)
    refuse_too_large(
        f"training.epochs: {training.epochs:,} epochs, {updates:,} updates",
        SERIES * NUMBER * updates + EPOCH * training.epochs,
    )
