"""Everything that a training needs, prepared and checked: rows, split, targets and draws."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.draws import initial_parameters
from lockstep.data_prep.prepared import IGNORED, PreparedData
from lockstep.data_prep.size import refuse_training
from lockstep.data_prep.sources import load_table
from lockstep.data_prep.split import Split, held_out_rows, split_table
from lockstep.data_prep.table import Table, nearest
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.schedules.rate_tables import decay_warnings

__all__ = ["draw_member", "prepare", "prepare_members"]

LARGEST = 1e100
"""The largest feature or target; a larger one could overflow when it is standardised."""
NEGLIGIBLE = 1e-13
"""Share of a target's size at which its spread is lost in rounding."""


def prepare(recipe: Recipe, table: Table | None = None, split: Split | None = None) -> PreparedData:
    """Load, check, split, standardise and draw all that a recipe needs.

    Args:
        recipe: what to train.
        table: the rows; None: `load_table(recipe)`.
        split: the split of the table; None: `split_table(recipe, table)`.

    Raises:
        InputError: rows that cannot be trained on; names the column and row, or the field.
    """
    table = load_table(recipe) if table is None else table
    _check_table(recipe, table, held_out_rows(recipe, table))
    _check_rate(recipe)
    split = split_table(recipe, table) if split is None else split
    targets = _targets(recipe, table, split)
    classes = tuple(name for name in table.classes if name != recipe.loss.ignored_class)
    outputs = recipe.loss.outputs(len(classes))
    refuse_training(recipe, len(targets.train_y_N), len(table.columns), outputs)
    warnings = [*table.warnings, *split.warnings, *_constant_columns(split)]
    data = PreparedData(
        train_x_ND=split.train_x_ND,
        train_y_N=targets.train_y_N,
        held_out_x_ND=split.held_out_x_ND,
        held_out_y_N=targets.held_out_y_N,
        mean_D=split.mean_D,
        scale_D=split.scale_D,
        parameters=initial_parameters(recipe, len(split.columns), outputs),
        columns=split.columns,
        classes=classes,
        warnings=(*warnings, *_model_warnings(recipe)),
        batch=recipe.training.batch,
        drop_last=recipe.training.drop_last,
        epochs=recipe.training.epochs,
        seed=recipe.training.seed,
        outputs=outputs,
        target=table.target,
        target_mean=targets.mean,
        target_scale=targets.scale,
        accumulate=recipe.gradient.accumulate,
        accumulate_mean=recipe.gradient.accumulate_mean,
        hidden=recipe.model.hidden,
        dropout=recipe.model.dropout,
        notes=(*table.notes, *split.notes),
        first_row=split.first_row,
    )
    _check_targets(recipe, data)
    late_warnings = decay_warnings(recipe, data.updates_per_epoch)
    return replace(data, warnings=(*data.warnings, *late_warnings))


def prepare_members(
    recipe: Recipe, seeds: Sequence[int], table: Table | None = None
) -> list[PreparedData]:
    """The same rows for each seed, with the initial parameters, order and masks of that seed.

    Args:
        recipe: what to train.
        seeds: values of `training.seed`.
        table: the rows; None: `load_table(recipe)`.

    Raises:
        InputError: as in `prepare`.
    """
    data = prepare(recipe, table)
    return [draw_member(recipe, data, seed) for seed in seeds]


def draw_member(recipe: Recipe, data: PreparedData, seed: int) -> PreparedData:
    """The rows of `data` with the initial parameters, order and masks of another `training.seed`.

    Raises:
        InputError: a batch without a row that counts.
    """
    seeded = replace(recipe, training=replace(recipe.training, seed=seed))
    parameters = initial_parameters(seeded, len(data.columns), data.outputs)
    member = replace(data, parameters=parameters, seed=seed)
    _check_targets(recipe, member)
    return member


def _model_warnings(recipe: Recipe) -> Iterator[str]:
    model = recipe.model
    if model.norm == "batch" and model.bias and model.hidden and recipe.optimizer.name != "sgd":
        yield (
            "model.bias: before batch normalisation a bias has gradient 0 but for rounding, which "
            f"{recipe.optimizer.name} may turn into steps: such biases differ by framework; false "
            "leaves them out"
        )
    rate = _largest_rate(recipe)
    if rate > float(np.finfo(recipe.dtype).max) ** 0.5:
        yield (
            f"schedule.peak: a rate of {rate:g} takes the parameters beyond "
            f"{recipe.training.dtype} in the first updates: the run overflows"
        )


def _largest_rate(recipe: Recipe) -> float:
    """The peak times the largest of the layers' multipliers, float64."""
    return recipe.schedule.peak * max(recipe.optimizer.multipliers, default=1.0)


def _check_rate(recipe: Recipe) -> None:
    rate = _largest_rate(recipe)
    if not rate <= float(np.finfo(recipe.dtype).max):
        raise InputError(
            f"schedule.peak: a rate of {rate:g} is infinite in {recipe.training.dtype}"
        )


class _Targets(NamedTuple):
    """Labels, or standardised numbers with the mean and scale of the training rows."""

    train_y_N: NDArray[Any]
    held_out_y_N: NDArray[Any]
    mean: float = 0.0
    scale: float = 1.0


def _targets(recipe: Recipe, table: Table, split: Split) -> _Targets:
    """The targets of both parts.

    Raises:
        InputError: a number to predict that is the same in all rows of a part.
    """
    train_y_N = split.train_y_N
    held_out_y_N = split.held_out_y_N
    if not recipe.loss.predicts_number:
        return _Targets(_labels(recipe, table, train_y_N), _labels(recipe, table, held_out_y_N))
    mean, scale = _target_scaling(train_y_N)
    for part, y_N in (("training", train_y_N), ("held-out", held_out_y_N)):
        if scale == 0 or np.ptp(y_N) <= NEGLIGIBLE * np.abs(y_N).max():
            raise InputError(
                f"data.target: {table.target!r} is {y_N[0]:g} in all {len(y_N)} {part} rows"
            )
    return _Targets(
        train_y_N=(train_y_N - mean) / scale,
        held_out_y_N=(held_out_y_N - mean) / scale,
        mean=mean,
        scale=scale,
    )


def _target_scaling(train_y_N: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation of the training rows' targets.

    The deviation is 0 where it is lost in rounding.
    """
    # shares, because the square of a tiny or huge target could leave the range of float64
    largest = float(np.abs(train_y_N).max()) or 1.0
    deviation = float((train_y_N / largest).std())
    scale = deviation * largest if deviation > NEGLIGIBLE else 0.0
    return float(train_y_N.mean()), scale


def _constant_columns(split: Split) -> Iterator[str]:
    # scikit-learn scales by 1 where the variance is lost in rounding, and else by its root
    for name, variance, scale in zip(split.columns, split.variance_D, split.scale_D):
        if scale == 1 and variance < 0.5:
            yield f"column {name!r} is constant in the training rows: scaled by 1"


def _labels(recipe: Recipe, table: Table, y_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels, numbered over the classes that count; `IGNORED` for rows of the ignored class."""
    if not recipe.loss.ignored_class:
        return y_N
    ignored = table.classes.index(recipe.loss.ignored_class)
    return np.where(y_N == ignored, IGNORED, y_N - (y_N > ignored))


def _check_table(recipe: Recipe, table: Table, held_out: int) -> None:
    """Raise InputError for rows that cannot be trained on, of which `held_out` are held out."""
    training = len(table.y_N) - held_out
    if recipe.data.missing in ("mean", "median"):  # fmax and fmin pass over missing values
        most_D = np.fmax.reduce(table.x_ND)
        least_D = np.fmin.reduce(table.x_ND)
    else:
        most_D = np.maximum.reduce(table.x_ND)
        least_D = np.minimum.reduce(table.x_ND)
    largest_D = np.maximum(most_D, -least_D)
    for name, largest in zip(table.columns, largest_D):
        if not largest <= LARGEST:
            raise InputError(
                f"column {name!r}: {largest:g} in size; must be finite and at most {LARGEST:g}"
            )
    if recipe.loss.predicts_number:
        if not np.abs(table.y_N).max() <= LARGEST:
            raise InputError(
                f"target {table.target!r}: must be finite and at most {LARGEST:g} in size"
            )
        if table.held_out and min(held_out, training) < 2:
            raise InputError("data.holdout: one row to train on or held out; each part needs two")
        if min(held_out, training) < 2:
            raise InputError(
                f"data.held_out: {recipe.data.held_out} splits {len(table.y_N)} rows into "
                f"{training} to train on and {held_out} held out; each part needs two"
            )
    else:
        _check_classes(recipe, table, held_out)
    batch = recipe.training.batch
    if batch > training:
        raise InputError(f"training.batch: {batch} rows are more than the {training} training rows")
    last_batch = 0 if recipe.training.drop_last else training % batch
    if recipe.model.norm == "batch" and 1 in (batch, last_batch):
        which = "a batch" if batch == 1 else "the last batch of an epoch"
        raise InputError(
            f'training.batch: {which} has 1 row, and model.norm = "batch" needs 2 for a variance; '
            "another size, or training.drop_last"
        )


def _check_classes(recipe: Recipe, table: Table, held_out: int) -> None:
    loss = recipe.loss
    classes = len(table.classes)
    if classes < 2:
        raise InputError(
            f"data.target: a single class ({table.classes[0]!r}) in all {len(table.y_N)} rows; "
            "there must be two"
        )
    if not table.held_out:
        _check_split_by_class(recipe, table, held_out)
    if loss.spec.link == "sigmoid" and classes != 2:
        raise InputError(f"loss.name: {loss.name} needs 2 classes, but the data has {classes}")
    if loss.ignored_class:
        if loss.ignored_class not in table.classes:
            hint = nearest(loss.ignored_class, table.classes)
            raise InputError(f"loss.ignored_class: no class {loss.ignored_class!r}{hint}")
        classes -= 1
        if classes < 2:
            raise InputError(
                f"loss.ignored_class: without {loss.ignored_class!r} a single class is left"
            )
    if loss.class_weights and len(loss.class_weights) != classes:
        raise InputError(
            f"loss.class_weights: {len(loss.class_weights)} weights for {classes} classes"
        )
    if loss.class_weights and not any(loss.class_weights):
        raise InputError("loss.class_weights: all are 0, so no row counts")


def _check_split_by_class(recipe: Recipe, table: Table, held_out: int) -> None:
    classes = len(table.classes)
    training = len(table.y_N) - held_out
    count_K = np.bincount(table.y_N, minlength=classes)
    rare = int(count_K.argmin())
    if count_K[rare] < 2:
        raise InputError(
            f"data.target: class {table.classes[rare]!r} has {count_K[rare]} row; the stratified "
            "split needs 2 of each"
        )
    if min(held_out, training) < classes:
        raise InputError(
            f"data.held_out: {recipe.data.held_out} splits {len(table.y_N)} rows into {training} "
            f"to train on and {held_out} held out; each part needs one for each of the {classes} "
            "classes"
        )


def _check_targets(recipe: Recipe, data: PreparedData) -> None:
    """Raise InputError unless each batch, and the held-out rows, have a row whose loss counts."""
    loss = recipe.loss
    if not loss.ignored_class and 0 not in loss.class_weights:
        return
    weights = loss.class_weights or (1.0,) * data.outputs
    weight_K = np.array([*weights, 0.0])  # the last is the weight of the label IGNORED = -1
    field = "loss.ignored_class" if loss.ignored_class else "loss.class_weights"
    if not weight_K[data.held_out_y_N].any() or (data.held_out_y_N == IGNORED).all():
        raise InputError(f"{field}: no held-out row counts")
    for epoch in range(data.epochs):
        rows_TB, weight_TB, *_ = data.batches(epoch)
        counted_T = (weight_K[data.train_y_N[rows_TB]] * weight_TB).any(axis=1)
        if not counted_T.all():
            batch = int(counted_T.argmin())
            update = epoch * data.updates_per_epoch + batch // data.accumulate
            raise InputError(
                f"{field}: no row counts in batch {batch + 1} of epoch {epoch + 1}, update "
                f"{update}; a larger training.batch would help"
            )
