"""Missing numbers filled in and categories made columns, by what the training rows hold."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.table import Note, Table, counted, listed
from lockstep.errors import InputError

__all__ = ["Encoded", "encode"]

LARGEST = 2**31
"""The most bytes that the features may take, with a column for each category."""


class Encoded(NamedTuple):
    """Features of the training rows and of the held-out rows, float64, none of them missing.

    `columns` are their names, `notes` say what was done, and `warnings` what is odd.
    """

    train_x_ND: NDArray[np.float64]
    held_out_x_ND: NDArray[np.float64]
    columns: tuple[str, ...]
    notes: tuple[Note, ...] = ()
    warnings: tuple[str, ...] = ()


def encode(
    table: Table, train_N: NDArray[np.int64], held_out_N: NDArray[np.int64], missing: str
) -> Encoded:
    """Fill in missing numbers and give each category of the training rows a column.

    Args:
        table: all rows.
        train_N: numbers of the training rows, which alone decide means, medians and categories.
        held_out_N: numbers of the held-out rows.
        missing: the recipe's `data.missing`; "mean" and "median" fill in.

    Raises:
        InputError: a column without a number in the training rows, equal names, or too many
            columns.
    """
    train_x_ND = table.x_ND[train_N]
    held_out_x_ND = table.x_ND[held_out_N]
    notes: list[Note] = []
    if missing in ("mean", "median"):
        notes += _fill_in(table, train_x_ND, held_out_x_ND, missing)
    if not table.categories:
        return Encoded(train_x_ND, held_out_x_ND, table.columns, tuple(notes))
    encoded = _one_hot(table, train_x_ND, held_out_x_ND)
    return encoded._replace(notes=(*notes, *encoded.notes))


def _fill_in(
    table: Table, train_x_ND: NDArray[np.float64], held_out_x_ND: NDArray[np.float64], strategy: str
) -> Iterator[Note]:
    """Fill in missing numbers, in place, and note which."""
    from sklearn.impute import SimpleImputer

    absent_ND = np.isnan(train_x_ND)
    count_D = absent_ND.sum(axis=0) + np.isnan(held_out_x_ND).sum(axis=0)
    places = np.flatnonzero(count_D)
    if not len(places):
        return
    for place in places:
        if absent_ND[:, place].all():
            raise InputError(
                f"column {table.columns[place]!r} has no number in the training rows to take the "
                f"{strategy} of; data.drop leaves it out"
            )
    imputer = SimpleImputer(strategy=strategy).fit(train_x_ND[:, places])
    for part_ND in (train_x_ND, held_out_x_ND):
        part_ND[:, places] = imputer.transform(part_ND[:, places])
    filled = [
        f"{table.columns[place]} in {counted(count_D[place], 'row')} by {value:.4g}"
        for place, value in zip(places[:8], imputer.statistics_)
    ]
    more = f" and {len(places) - 8} columns more" if len(places) > 8 else ""
    yield "missing values", f"filled in by the training rows' {strategy}: {', '.join(filled)}{more}"


def _one_hot(
    table: Table, train_x_ND: NDArray[np.float64], held_out_x_ND: NDArray[np.float64]
) -> Encoded:
    """The features with a column for each category of the training rows."""
    names: list[str] = []
    train_parts: list[NDArray[Any]] = []
    held_out_parts: list[NDArray[Any]] = []
    notes: list[Note] = []
    warnings: list[str] = []
    _check_size(table, len(train_x_ND) + len(held_out_x_ND))
    for place, (name, categories) in enumerate(zip(table.columns, table.categories)):
        train_N1 = train_x_ND[:, [place]]
        held_out_N1 = held_out_x_ND[:, [place]]
        if not categories:
            names.append(name)
            train_parts.append(train_N1)
            held_out_parts.append(held_out_N1)
            continue
        encoder = _encoder(train_N1)
        present = [categories[int(position)] for position in encoder.categories_[0]]
        names += [f"{name}={category}" for category in present]
        train_parts.append(encoder.transform(train_N1))
        held_out_parts.append(encoder.transform(held_out_N1))
        columns = counted(len(present), "column")
        notes.append((f"categories of {name}", f"{columns}: {listed(present)}"))
        is_new_N1 = ~np.isin(held_out_N1, encoder.categories_[0])
        if is_new_N1.any():
            absent = [categories[int(position)] for position in np.unique(held_out_N1[is_new_N1])]
            rows = counted(int(is_new_N1.sum()), "held-out row")
            warnings.append(
                f"column {name!r}: {listed(absent, 3)} in {rows} and no training row: 0 in all its "
                "columns"
            )
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"data.categories: two columns would be named {min(repeated)!r}")
    return Encoded(
        np.hstack(train_parts),
        np.hstack(held_out_parts),
        tuple(names),
        tuple(notes),
        tuple(warnings),
    )


def _encoder(train_N1: NDArray[np.float64]) -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(train_N1)


def _check_size(table: Table, rows: int) -> None:
    counts = [len(categories) for categories in table.categories]
    width = sum(count or 1 for count in counts)
    size = 8 * rows * width
    if size > LARGEST:
        widest = table.columns[counts.index(max(counts))]
        raise InputError(
            f"data.categories: {rows} rows of {width} columns take {size / 2**30:.1f} GiB, at most "
            f"{LARGEST >> 30} are allowed; data.drop leaves out {widest!r}, which has most "
            "categories"
        )
