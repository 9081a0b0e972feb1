"""The split into training and held-out rows, both standardised by the training rows."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.encode import encode
from lockstep.data_prep.table import Note, Table
from lockstep.recipe import Recipe

__all__ = ["Split", "held_out_rows", "split_table"]


class Split(NamedTuple):
    """The training rows and held-out rows of a table: features standardised, targets unchanged.

    - `mean_D`, `variance_D` and `scale_D` are the training rows' mean and variance of each column,
      and its divisor.
    - `first_row` is the number in the table of the first training row.
    - `columns` are the names of the features; they differ from the table's where categories became
      columns.
    - `notes` say what was done, and `warnings` what is odd.
    """

    train_x_ND: NDArray[np.float64]
    train_y_N: NDArray[Any]
    held_out_x_ND: NDArray[np.float64]
    held_out_y_N: NDArray[Any]
    mean_D: NDArray[np.float64]
    variance_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]
    first_row: int
    columns: tuple[str, ...]
    notes: tuple[Note, ...] = ()
    warnings: tuple[str, ...] = ()


def split_table(recipe: Recipe, table: Table) -> Split:
    """Split the rows, fill in and encode as the recipe says, and standardise the features.

    The split is by class if there are classes. Everything is fitted on the training rows alone. A
    column whose variance is lost in rounding is divided by 1.

    Raises:
        InputError: as in `lockstep.data_prep.encode.encode`.
    """
    from sklearn.preprocessing import StandardScaler

    train_N, held_out_N = _split_rows(recipe, table)
    encoded = encode(table, train_N, held_out_N, recipe.data.missing)
    scaler = StandardScaler(copy=False).fit(encoded.train_x_ND)
    return Split(
        train_x_ND=scaler.transform(encoded.train_x_ND),
        train_y_N=table.y_N[train_N],
        held_out_x_ND=scaler.transform(encoded.held_out_x_ND),
        held_out_y_N=table.y_N[held_out_N],
        mean_D=scaler.mean_,
        variance_D=scaler.var_,
        scale_D=scaler.scale_,
        first_row=int(train_N[0]),
        columns=encoded.columns,
        notes=encoded.notes,
        warnings=encoded.warnings,
    )


def held_out_rows(recipe: Recipe, table: Table) -> int:
    """The number of held-out rows; drawn ones come in addition to the `data.rows` training rows."""
    if table.held_out:
        return table.held_out
    rows = len(table.y_N)
    if recipe.data.source == "synthetic":
        return rows - recipe.data.rows
    return round(rows * recipe.data.held_out)


def _split_rows(recipe: Recipe, table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the rows to train on, and of those held out."""
    from sklearn.model_selection import train_test_split

    rows_N = np.arange(len(table.y_N))
    held_out = held_out_rows(recipe, table)
    if table.held_out:
        return rows_N[:-held_out], rows_N[-held_out:]
    train_N, held_out_N = train_test_split(
        rows_N,
        test_size=held_out,
        train_size=len(rows_N) - held_out,
        stratify=None if recipe.loss.predicts_number else table.y_N,
        random_state=recipe.data.seed,
    )
    return train_N, held_out_N
