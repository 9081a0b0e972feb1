"""Rows to train on and rows held out, standardised with the former's mean and deviation."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.table import Table
from lockstep.recipe import Recipe

__all__ = ["Split", "held_out_rows", "split_table"]


class Split(NamedTuple):
    """A table's rows to train on and those held out: features standardised, targets as they were; and each column's
    mean, variance and what it was divided by, of the training rows."""

    train_x_ND: NDArray[np.float64]
    train_y_N: NDArray[Any]
    held_out_x_ND: NDArray[np.float64]
    held_out_y_N: NDArray[Any]
    mean_D: NDArray[np.float64]
    variance_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]


def split_table(recipe: Recipe, table: Table) -> Split:
    """Split the rows, by class where there are classes, and standardise the features; a column whose variance is lost
    in rounding is divided by 1."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    held_out = held_out_rows(recipe, table)
    train_x, held_out_x, train_y, held_out_y = train_test_split(
        table.x_ND,
        table.y_N,
        test_size=held_out,
        train_size=len(table.y_N) - held_out,
        stratify=None if recipe.loss.predicts_number else table.y_N,
        random_state=recipe.data.seed,
    )
    scaler = StandardScaler().fit(train_x)
    scaled = scaler.transform(train_x), train_y, scaler.transform(held_out_x), held_out_y
    return Split(*scaled, scaler.mean_, scaler.var_, scaler.scale_)


def held_out_rows(recipe: Recipe, table: Table) -> int:
    """How many rows are held out; those that are drawn are drawn beside the `data.rows` to train on."""
    rows = len(table.y_N)
    return rows - recipe.data.rows if recipe.data.source == "synthetic" else round(rows * recipe.data.held_out)
