"""The rows that a recipe names: a table shipped with scikit-learn, drawn rows, or a user's file."""

import numpy as np

from lockstep.data_prep.draws import NOISE, generator_of
from lockstep.data_prep.rows import read_file
from lockstep.data_prep.size import refuse_rows
from lockstep.data_prep.table import Table
from lockstep.errors import InputError
from lockstep.recipe import LATER, Data, Recipe
from lockstep.recipe.losses.base import number_losses

__all__ = ["load_table"]


def load_table(recipe: Recipe) -> Table:
    """The rows that a recipe's data section names, checked cell by cell.

    The target is a number if the recipe's loss takes one.

    Raises:
        InputError: a file, column or cell that cannot be used; names it (rows are counted from 1).
    """
    data = recipe.data
    numbers = recipe.loss.predicts_number
    if data.source == "file":
        return read_file(data, numbers)
    for field in LATER:
        if getattr(data, field) != getattr(Data(), field):
            raise InputError(
                f'data.{field}: for source = "file" only, and the source is "{data.source}"'
            )
    if data.source == "synthetic":
        refuse_rows(data, numbers)
        return _draw_numbers(data) if numbers else _draw_classes(data)
    if numbers and data.source != "diabetes":
        raise InputError(
            f'loss.name: {recipe.loss.name} predicts a number, but data.source "{data.source}" has '
            "classes"
        )
    if not numbers and data.source == "diabetes":
        raise InputError(
            f'loss.name: {recipe.loss.name} needs classes, but data.source "diabetes" has a number '
            f"to predict (loss.name = {number_losses()})"
        )
    return _shipped(data.source)


def _shipped(source: str) -> Table:
    """A table shipped with scikit-learn."""
    from sklearn import datasets

    if source == "diabetes":
        bunch = datasets.load_diabetes(scaled=False)
        classes: list[str] = []
    elif source == "digits":
        bunch = datasets.load_digits()
        classes = [str(name) for name in bunch.target_names]
    else:
        bunch = datasets.load_breast_cancer()
        classes = [str(name) for name in bunch.target_names]
    columns = [str(name) for name in bunch.feature_names]
    return Table(
        x_ND=np.asarray(bunch.data, dtype=np.float64),
        y_N=np.asarray(bunch.target, dtype=np.int64 if classes else np.float64),
        columns=tuple(columns),
        classes=tuple(classes),
        target="class" if classes else "progression",
    )


def _draw_numbers(data: Data) -> Table:
    """Rows with a linear target of half the columns; its noise has a random stream of its own."""
    from sklearn.datasets import make_regression

    x_ND, signal_N = make_regression(
        n_samples=data.rows + max(round(data.rows * data.held_out), 2),
        n_features=data.features,
        n_informative=(data.features + 1) // 2,
        n_targets=1,
        bias=0.0,
        effective_rank=None,
        noise=0.0,
        shuffle=True,
        random_state=data.seed,
    )
    noise_N = generator_of(data.seed, NOISE).standard_normal(len(signal_N))
    with np.errstate(over="ignore", invalid="ignore"):  # `prepare` refuses what overflows
        y_N = signal_N + data.noise * signal_N.std() * noise_N
    return Table(
        x_ND=x_ND,
        y_N=y_N,
        columns=tuple(f"x{i}" for i in range(1, data.features + 1)),
        classes=(),
        target="y",
    )


def _draw_classes(data: Data) -> Table:
    from sklearn.datasets import make_classification

    least = int(np.ceil(np.log2(data.classes)))
    informative = max(least, (data.features + 1) // 2)
    if data.features < least:
        raise InputError(
            f"data.features: {data.classes} classes need at least {least} features, got "
            f"{data.features}"
        )
    if data.rows < data.classes:
        raise InputError(
            f"data.rows: {data.rows} rows are fewer than the {data.classes} classes (data.classes)"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # `prepare` refuses what overflows
        x_ND, y_N = make_classification(
            n_samples=data.rows + max(round(data.rows * data.held_out), data.classes),
            n_features=data.features,
            n_informative=informative,
            n_redundant=0,
            n_repeated=0,
            n_classes=data.classes,
            n_clusters_per_class=1,
            weights=None,
            flip_y=0.0,
            class_sep=data.class_separation,
            hypercube=True,
            shift=0.0,
            scale=1.0,
            shuffle=True,
            random_state=data.seed,
        )
    return Table(
        x_ND=x_ND,
        y_N=y_N.astype(np.int64),
        columns=tuple(f"x{i}" for i in range(1, data.features + 1)),
        classes=tuple(str(i) for i in range(data.classes)),
    )
