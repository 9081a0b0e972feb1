"""The one shared data-prep module: load, check, split, standardise, batches, initial parameters.

Everything random is drawn here, once, in NumPy and in float64; both frameworks and the oracle are fed the
same bits, and `PreparedData.hash` of them stands in every trace.
"""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.groups import decay_warnings
from lockstep.initialise import draw_bias, draw_weight
from lockstep.recipe import Data, Model, Recipe
from lockstep.tensor_file import hash_arrays, read_tensors, write_tensors

if TYPE_CHECKING:
    import polars

__all__ = [
    "Batches",
    "OwnDraws",
    "PreparedData",
    "Split",
    "Table",
    "draw_member",
    "initial_parameters",
    "initial_statistics",
    "layer_sizes",
    "load_table",
    "prepare",
    "prepare_members",
    "split_table",
    "updates_per_epoch",
]

SCHEMA = "lockstep.data/1"
LARGEST = 1e100  # a feature above it could overflow when it is standardised
ORDER, PARAMETERS, MASKS, NOISE = 1, 2, 3, 11  # streams of random numbers under one seed

IGNORED = -1
"""The label of a row whose class the loss ignores."""

SMALL = 1_000_000
"""Multiply-adds of a batch's forward pass below which one thread is faster than several."""

Parameters = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Table:
    """Rows as they were read: features (N, D) float64, classes (N,) int64 from 0, and their names; or a number to
    predict (N,) float64, and no classes. `target` is the name of what is predicted."""

    x_ND: NDArray[np.float64]
    y_N: NDArray[Any]
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    target: str = "class"


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


class Batches(NamedTuple):
    """The batches of one epoch, T of them. Every batch has B row numbers; a short last one is padded.

    rows_TB int64, row numbers into the training rows; weight_TB float64, 1 for a row that counts and 0 for
    padding; count_T int64, how many rows count; share_T float64, the weight of the batch in the gradient of its
    update: those of an update add up to 1; last_T bool, where a batch is the last of its update.
    """

    rows_TB: NDArray[np.int64]
    weight_TB: NDArray[np.float64]
    count_T: NDArray[np.int64]
    share_T: NDArray[np.float64]
    last_T: NDArray[np.bool_]


@dataclass(frozen=True)
class PreparedData:
    """What every trainer is fed. Arrays are float64 (labels int64); `cast` rounds them to a recipe's dtype.

    `classes` are those that the model tells apart; a row of the ignored class has the label `IGNORED`. A number to
    predict is standardised: (y - `target_mean`) / `target_scale`; there are no classes then. `outputs` is the model's
    number of output units.
    """

    train_x_ND: NDArray[Any]
    train_y_N: NDArray[Any]
    held_out_x_ND: NDArray[Any]
    held_out_y_N: NDArray[Any]
    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]
    parameters: Parameters
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]
    batch: int
    drop_last: bool
    epochs: int
    seed: int
    outputs: int
    target: str
    target_mean: float
    target_scale: float
    accumulate: int = 1
    accumulate_mean: str = "batches"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0

    @property
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return updates_per_epoch(len(self.train_y_N), self.batch, drop_last=self.drop_last)

    @property
    def updates_per_epoch(self) -> int:
        """How many updates an epoch has: its batches, `accumulate` at a time; the last update may take fewer."""
        return -(-self.batches_per_epoch // self.accumulate)

    @property
    def updates(self) -> int:
        """T, the number of optimizer updates of the whole run."""
        return self.epochs * self.updates_per_epoch

    @property
    def is_small(self) -> bool:
        """Whether a batch's forward pass has so few multiply-adds that threads which share them cost more than they
        save, and much more beside busy neighbours."""
        sizes = layer_sizes(len(self.columns), self.hidden, self.outputs)
        return self.batch * sum(inputs * outputs for _, inputs, outputs in sizes) < SMALL

    def batches(self, epoch: int) -> Batches:
        """The batches of an epoch, counted from 0."""
        return Batches(self._rows(epoch), *self._same_in_every_epoch)

    def _rows(self, epoch: int) -> NDArray[np.int64]:
        padded = np.zeros(self.batches_per_epoch * self.batch, dtype=np.int64)
        used = min(len(self.train_y_N), len(padded))
        padded[:used] = self.order(epoch)[:used]
        return padded.reshape(-1, self.batch)

    @cached_property
    def _same_in_every_epoch(self) -> tuple[NDArray[Any], ...]:
        """Of `Batches` all but the rows."""
        places = np.arange(self.batches_per_epoch * self.batch)
        weight_TB = (places < len(self.train_y_N)).astype(np.float64).reshape(-1, self.batch)
        count_T = weight_TB.sum(axis=1).astype(np.int64)
        update_T = np.arange(len(count_T)) // self.accumulate
        size_T = count_T if self.accumulate_mean == "rows" else np.ones_like(count_T)
        share_T = size_T / np.bincount(update_T, weights=size_T)[update_T]
        last_T = np.diff(update_T, append=-1) != 0
        return weight_TB, count_T, share_T, last_T

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The rows in the order of an epoch."""
        return _generator(self.seed, ORDER, epoch).permutation(len(self.train_y_N))

    def masks(self, epoch: int) -> list[NDArray[np.bool_]]:
        """For each hidden layer which units stay in each batch of an epoch, (T, B, units); none without dropout."""
        if not self.dropout:
            return []
        found = []
        for layer, units in enumerate(self.hidden, start=1):
            generator = _generator(self.seed, MASKS, epoch, layer)
            # a batch at a time: the draws take 8 times the memory of the masks
            masks = [generator.random((self.batch, units)) >= self.dropout for _ in range(self.batches_per_epoch)]
            found.append(np.stack(masks))
        return found

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of all that is fed: rows, labels, initial parameters, order and masks of every epoch."""
        arrays: dict[str, Any] = {
            "train_x": self.train_x_ND,
            "train_y": self.train_y_N,
            "held_out_x": self.held_out_x_ND,
            "held_out_y": self.held_out_y_N,
            **self.parameters,
        }
        # drawn when their turn comes, which all of an epoch's layers have together: a long run has many epochs
        masks = lru_cache(maxsize=1)(self.masks)
        for epoch in range(self.epochs):
            arrays[f"order/{epoch}"] = partial(self._rows, epoch)
            for layer in range(len(self.hidden) if self.dropout else 0):
                arrays[f"masks/{epoch}/{layer + 1}"] = partial(lambda e, i: np.packbits(masks(e)[i]), epoch, layer)
        return hash_arrays(arrays)

    def cast(self, dtype: Any) -> "PreparedData":
        """The same data with features, numbers to predict and initial parameters rounded to `dtype`; the hash
        stays that of the float64 data, so that runs of both precisions can be seen to share it."""
        names = ("train_x_ND", "held_out_x_ND", "train_y_N", "held_out_y_N")
        numbers = {name: getattr(self, name) for name in names}
        changed = {name: array.astype(dtype) for name, array in numbers.items() if array.dtype.kind == "f"}
        parameters = {name: array.astype(dtype) for name, array in self.parameters.items()}
        data = replace(self, **changed, parameters=parameters)
        data.__dict__["hash"] = self.hash
        return data

    def save(self, path: Path) -> None:
        """Write to one file, so that each trainer's process starts from these bits."""
        header = {name: getattr(self, name) for name in HEADER_FIELDS}
        arrays = {name: getattr(self, name) for name in ARRAY_FIELDS}
        write_tensors(path, SCHEMA, header, arrays | {f"parameters/{k}": v for k, v in self.parameters.items()})

    @staticmethod
    def load(path: Path) -> "PreparedData":
        """Read what `save` wrote."""
        header, arrays = read_tensors(path, SCHEMA)
        content: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in header.items()}
        content |= {name: arrays[name] for name in ARRAY_FIELDS}
        names = [name for name in arrays if name.startswith("parameters/")]
        content["parameters"] = {name.removeprefix("parameters/"): arrays[name] for name in sorted(names)}
        return PreparedData(**content)


@dataclass(frozen=True, kw_only=True)
class OwnDraws(PreparedData):
    """Data whose initial parameters, order and masks a framework drew with its own means.

    `orders_EN` has the rows in the order of each epoch; `draw_masks` gives what `masks` does.
    """

    orders_EN: NDArray[np.int64]
    draw_masks: Callable[[int], list[NDArray[np.bool_]]]

    @staticmethod
    def of(data: PreparedData, **drawn: Any) -> "OwnDraws":
        """The same rows with other draws."""
        return OwnDraws(**{field.name: getattr(data, field.name) for field in fields(PreparedData)} | drawn)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The rows in the order of an epoch."""
        order_N: NDArray[np.int64] = self.orders_EN[epoch]
        return order_N

    def masks(self, epoch: int) -> list[NDArray[np.bool_]]:
        """For each hidden layer which units stay in each batch of an epoch, (T, B, units); none without dropout."""
        return self.draw_masks(epoch) if self.dropout else []


HEADER_FIELDS = (
    *("columns", "classes", "warnings", "batch", "drop_last", "epochs", "seed"),
    *("outputs", "target", "target_mean", "target_scale"),
    *("accumulate", "accumulate_mean", "hidden", "dropout"),
)
ARRAY_FIELDS = ("train_x_ND", "train_y_N", "held_out_x_ND", "held_out_y_N", "mean_D", "scale_D")


def updates_per_epoch(rows: int, batch: int, *, drop_last: bool) -> int:
    """How many batches, and so updates without accumulation, an epoch has."""
    return rows // batch if drop_last else -(-rows // batch)


def layer_sizes(inputs: int, hidden: Sequence[int], outputs: int) -> list[tuple[str, int, int]]:
    """Canonical name, inputs and outputs of every linear layer: ("linear1", 10, 50), ("linear2", 50, 2)."""
    sizes = [inputs, *hidden, outputs]
    return [(f"linear{i}", sizes[i - 1], sizes[i]) for i in range(1, len(sizes))]


def prepare(recipe: Recipe, table: Table | None = None, split: Split | None = None) -> PreparedData:
    """Load, check, split, standardise and draw all that a recipe needs.

    Args:
        recipe: what to train.
        table: the rows, where they are already at hand; `load_table(recipe)` otherwise.
        split: of the table, where it is already at hand; `split_table(recipe, table)` otherwise.

    Raises:
        InputError: rows that cannot be trained on; names the column and row, or the field.
    """
    table = load_table(recipe) if table is None else table
    numbers = recipe.loss.predicts_number
    _check_table(recipe, table, _held_out(recipe, table))
    split = split_table(recipe, table) if split is None else split
    train_y, held_out_y = split.train_y_N, split.held_out_y_N
    target_mean, target_scale = 0.0, 1.0
    if numbers:
        target_mean, target_scale = _target_scaling(train_y)
        for part, y_N in (("training", train_y), ("held-out", held_out_y)):
            if target_scale == 0 or np.ptp(y_N) <= 1e-13 * np.abs(y_N).max():
                raise InputError(f"data.target: {table.target!r} is {y_N[0]:g} in all {len(y_N)} {part} rows")
        train_y, held_out_y = ((y_N - target_mean) / target_scale for y_N in (train_y, held_out_y))
    else:
        train_y, held_out_y = (_counted(recipe, table, y_N) for y_N in (train_y, held_out_y))
    # scikit-learn scales by 1 where the variance is lost in rounding, and else by its root
    constant = [name for name, var, by in zip(table.columns, split.variance_D, split.scale_D) if by == 1 and var < 0.5]
    classes = tuple(name for name in table.classes if name != recipe.loss.ignored_class)
    outputs = len(classes) if recipe.loss.name == "cross_entropy" else 1
    data = PreparedData(
        train_x_ND=split.train_x_ND,
        train_y_N=train_y,
        held_out_x_ND=split.held_out_x_ND,
        held_out_y_N=held_out_y,
        mean_D=split.mean_D,
        scale_D=split.scale_D,
        parameters=initial_parameters(recipe, len(table.columns), outputs),
        columns=table.columns,
        classes=classes,
        warnings=(
            *(f"column {name!r} is constant in the training rows: scaled by 1" for name in constant),
            *_model_warnings(recipe),
        ),
        batch=recipe.training.batch,
        drop_last=recipe.training.drop_last,
        epochs=recipe.training.epochs,
        seed=recipe.training.seed,
        outputs=outputs,
        target=table.target,
        target_mean=target_mean,
        target_scale=target_scale,
        accumulate=recipe.gradient.accumulate,
        accumulate_mean=recipe.gradient.accumulate_mean,
        hidden=recipe.model.hidden,
        dropout=recipe.model.dropout,
    )
    _check_targets(recipe, data)
    return replace(data, warnings=(*data.warnings, *decay_warnings(recipe, data.updates_per_epoch)))


def prepare_members(recipe: Recipe, seeds: Sequence[int], table: Table | None = None) -> list[PreparedData]:
    """The same rows for every seed, with the initial parameters, order and masks of that `training.seed`.

    Raises:
        InputError: as `prepare`.
    """
    data = prepare(recipe, table)
    return [draw_member(recipe, data, seed) for seed in seeds]


def draw_member(recipe: Recipe, data: PreparedData, seed: int) -> PreparedData:
    """The rows of `data` with the initial parameters, order and masks of another `training.seed`.

    Raises:
        InputError: a batch without a row that counts.
    """
    seeded = replace(recipe, training=replace(recipe.training, seed=seed))
    member = replace(data, parameters=initial_parameters(seeded, len(data.columns), data.outputs), seed=seed)
    _check_targets(recipe, member)
    return member


def split_table(recipe: Recipe, table: Table) -> Split:
    """Split the rows, by class where there are classes, and standardise the features; a column whose variance is lost
    in rounding is divided by 1."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    held_out = _held_out(recipe, table)
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


def _held_out(recipe: Recipe, table: Table) -> int:
    """How many rows are held out; those that are drawn are drawn beside the `data.rows` to train on."""
    rows = len(table.y_N)
    return rows - recipe.data.rows if recipe.data.source == "synthetic" else round(rows * recipe.data.held_out)


def _model_warnings(recipe: Recipe) -> Iterator[str]:
    model = recipe.model
    if model.norm == "batch" and model.bias and model.hidden and recipe.optimizer.name != "sgd":
        yield (
            "model.bias: before batch normalisation a bias has gradient 0 but for rounding, which "
            f"{recipe.optimizer.name} may turn into steps: such biases differ by framework; false leaves them out"
        )


def _target_scaling(train_y_N: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation of the training rows' targets; the latter is 0 where it is lost in rounding."""
    largest = float(np.abs(train_y_N).max()) or 1.0
    shares_N = train_y_N / largest  # the square of a tiny or huge target could leave the range of float64
    deviation = float(shares_N.std())
    return float(train_y_N.mean()), deviation * largest if deviation > 1e-13 else 0.0


def _counted(recipe: Recipe, table: Table, y_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels, numbered over the classes that count; `IGNORED` for rows of the ignored class."""
    if not recipe.loss.ignored_class:
        return y_N
    ignored = table.classes.index(recipe.loss.ignored_class)
    return np.where(y_N == ignored, IGNORED, y_N - (y_N > ignored))


def _check_targets(recipe: Recipe, data: PreparedData) -> None:
    """Every batch, and the held-out rows, must have a row whose loss counts."""
    if recipe.loss.name != "cross_entropy" or not (recipe.loss.ignored_class or 0 in recipe.loss.class_weights):
        return
    weight_K = np.array([*(recipe.loss.class_weights or (1.0,) * data.outputs), 0.0])  # label -1 is the last
    named = "loss.ignored_class" if recipe.loss.ignored_class else "loss.class_weights"
    if not (weight_K[data.held_out_y_N].any() and (data.held_out_y_N != IGNORED).any()):
        raise InputError(f"{named}: no held-out row counts")
    for epoch in range(data.epochs):
        rows_TB, weight_TB, *_ = data.batches(epoch)
        counted_T = (weight_K[data.train_y_N[rows_TB]] * weight_TB).any(axis=1)
        if not counted_T.all():
            batch = int(counted_T.argmin())
            update = epoch * data.updates_per_epoch + batch // data.accumulate
            raise InputError(
                f"{named}: no row counts in batch {batch + 1} of epoch {epoch + 1}, update {update}; "
                "a larger training.batch would help"
            )


def initial_parameters(recipe: Recipe, inputs: int, outputs: int) -> Parameters:
    """Weights (in, out) and biases (out,), float64, as `lockstep.initialise` draws them; a normalisation has weights 1
    and biases 0."""
    generator, model = _generator(recipe.training.seed, PARAMETERS), recipe.model
    parameters: Parameters = {}
    for i, (name, fan_in, fan_out) in enumerate(layer_sizes(inputs, model.hidden, outputs), start=1):
        parameters[f"{name}.weight"] = draw_weight(model.init, generator, fan_in, fan_out)
        # drawn even where there is none, so that the weights are the same with and without
        bias = draw_bias(model.init, generator, fan_in, fan_out)
        if model.bias:
            parameters[f"{name}.bias"] = bias
        if model.norm != "none" and i <= len(model.hidden):
            parameters[f"norm{i}.weight"], parameters[f"norm{i}.bias"] = np.ones(fan_out), np.zeros(fan_out)
    return parameters


def initial_statistics(model: Model) -> Parameters:
    """Batch normalisation's running statistics before training: mean 0 and variance 1, (units,) float64."""
    statistics: Parameters = {}
    for i, units in enumerate(model.hidden if model.norm == "batch" else (), start=1):
        statistics[f"norm{i}.mean"], statistics[f"norm{i}.var"] = np.zeros(units), np.ones(units)
    return statistics


def load_table(recipe: Recipe) -> Table:
    """The rows that a recipe's data section names, checked cell by cell; with a number to predict where its loss
    takes one.

    Raises:
        InputError: a file, column or cell that cannot be used; names it (rows are counted from 1).
    """
    data, numbers = recipe.data, recipe.loss.predicts_number
    if data.source == "file":
        return _read_file(data, numbers)
    from sklearn import datasets

    if data.source == "synthetic":
        return _draw_numbers(data) if numbers else _draw_classes(data)
    if numbers and data.source != "diabetes":
        raise InputError(
            f'loss.name: {recipe.loss.name} predicts a number, but data.source "{data.source}" has classes'
        )
    if data.source == "diabetes":
        if not numbers:
            raise InputError(
                f'loss.name: {recipe.loss.name} needs classes, but data.source "diabetes" has a number to predict '
                "(loss.name = mse or huber)"
            )
        bunch = datasets.load_diabetes(scaled=False)
        return Table(
            x_ND=np.asarray(bunch.data, dtype=np.float64),
            y_N=np.asarray(bunch.target, dtype=np.float64),
            columns=tuple(str(name) for name in bunch.feature_names),
            classes=(),
            target="progression",
        )
    bunch = {"breast_cancer": datasets.load_breast_cancer, "digits": datasets.load_digits}[data.source]()
    return Table(
        x_ND=np.asarray(bunch.data, dtype=np.float64),
        y_N=np.asarray(bunch.target, dtype=np.int64),
        columns=tuple(str(name) for name in bunch.feature_names),
        classes=tuple(str(name) for name in bunch.target_names),
    )


def _draw_numbers(data: Data) -> Table:
    """A linear target of half the columns, with noise of its own stream."""
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
    noise_N = _generator(data.seed, NOISE).standard_normal(len(signal_N))
    return Table(
        x_ND=x_ND,
        y_N=signal_N + data.noise * signal_N.std() * noise_N,
        columns=tuple(f"x{i}" for i in range(1, data.features + 1)),
        classes=(),
        target="y",
    )


def _draw_classes(data: Data) -> Table:
    from sklearn.datasets import make_classification

    least = int(np.ceil(np.log2(data.classes)))
    informative = max(least, (data.features + 1) // 2)
    if data.features < least:
        raise InputError(f"data.features: {data.classes} classes need at least {least} features, got {data.features}")
    if data.rows < data.classes:
        raise InputError(f"data.rows: {data.rows} rows are fewer than the {data.classes} classes (data.classes)")
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


def _check_table(recipe: Recipe, table: Table, held_out: int) -> None:
    rows = len(table.y_N)
    for name, largest in zip(table.columns, np.abs(table.x_ND).max(axis=0)):
        if not largest <= LARGEST:
            raise InputError(f"column {name!r}: {largest:g} in size; must be finite and at most {LARGEST:g}")
    if recipe.loss.predicts_number:
        if not np.abs(table.y_N).max() <= LARGEST:
            raise InputError(f"target {table.target!r}: must be finite and at most {LARGEST:g} in size")
        if min(held_out, rows - held_out) < 2:
            raise InputError(
                f"data.held_out: {recipe.data.held_out} splits {rows} rows into {rows - held_out} to train on and "
                f"{held_out} held out; each part needs two"
            )
    else:
        _check_classes(recipe, table, held_out)
    if recipe.training.batch > rows - held_out:
        raise InputError(
            f"training.batch: {recipe.training.batch} rows are more than the {rows - held_out} training rows"
        )
    short = 0 if recipe.training.drop_last else (rows - held_out) % recipe.training.batch
    if recipe.model.norm == "batch" and 1 in (recipe.training.batch, short):
        where = "a batch" if recipe.training.batch == 1 else "the last batch of an epoch"
        raise InputError(
            f'training.batch: {where} has 1 row, and model.norm = "batch" needs 2 for a variance; another size, '
            "or training.drop_last"
        )


def _check_classes(recipe: Recipe, table: Table, held_out: int) -> None:
    rows, classes, loss = len(table.y_N), len(table.classes), recipe.loss
    if classes < 2:
        raise InputError(f"data.target: a single class ({table.classes[0]!r}) in all {rows} rows; there must be two")
    count_K = np.bincount(table.y_N, minlength=classes)
    rare = int(count_K.argmin())
    if count_K[rare] < 2:
        raise InputError(
            f"data.target: class {table.classes[rare]!r} has {count_K[rare]} row; the stratified split needs 2 of each"
        )
    if min(held_out, rows - held_out) < classes:
        raise InputError(
            f"data.held_out: {recipe.data.held_out} splits {rows} rows into {rows - held_out} to train on and "
            f"{held_out} held out; each part needs one for each of the {classes} classes"
        )
    if loss.name == "binary_cross_entropy" and classes != 2:
        raise InputError(f"loss.name: binary_cross_entropy needs 2 classes, but the data has {classes}")
    if loss.ignored_class:
        if loss.ignored_class not in table.classes:
            raise InputError(
                f"loss.ignored_class: no class {loss.ignored_class!r}{_nearest(loss.ignored_class, table.classes)}"
            )
        classes -= 1
        if classes < 2:
            raise InputError(f"loss.ignored_class: without {loss.ignored_class!r} a single class is left")
    if loss.class_weights and len(loss.class_weights) != classes:
        raise InputError(f"loss.class_weights: {len(loss.class_weights)} weights for {classes} classes")
    if loss.class_weights and not any(loss.class_weights):
        raise InputError("loss.class_weights: all are 0, so no row counts")


def _read_file(data: Data, numbers: bool) -> Table:
    path = Path(data.path)
    if not data.path:
        raise InputError('data.path: source = "file" needs a .csv, .parquet or .npz file')
    if not data.target:
        raise InputError("data.target: name the column to predict (--target COLUMN)")
    frame = _read_frame(path)
    if data.target not in frame.columns:
        hint = _nearest(data.target, frame.columns, "columns")
        raise InputError(f"{path}: no column {data.target!r} for the target{hint}")
    if frame.width < 2:
        raise InputError(f"{path}: no feature column beside the target {data.target!r}")
    if frame.height == 0:
        raise InputError(f"{path}: no rows")
    names = [name for name in frame.columns if name != data.target]
    x_ND = np.column_stack([_numbers(path, frame[name]) for name in names])
    if numbers:
        return Table(x_ND, _numbers(path, frame[data.target], "target column"), tuple(names), (), data.target)
    values_N = _labels(path, frame[data.target])
    classes, y_N = np.unique(values_N, return_inverse=True)
    return Table(x_ND, y_N.astype(np.int64), tuple(names), tuple(str(name) for name in classes.tolist()), data.target)


def _nearest(name: str, known: Sequence[str], what: str = "classes") -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; {what}: {', '.join(map(repr, known[:8]))}"


def _read_frame(path: Path) -> "polars.DataFrame":
    import polars

    readers = {
        ".csv": lambda: polars.read_csv(path, infer_schema_length=None),
        ".parquet": lambda: polars.read_parquet(path),
        ".npz": lambda: _read_npz(path),
    }
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: must end in .csv, .parquet or .npz")
    if not os.path.isfile(path):  # unlike Path.is_file, also False for a name that the system refuses
        raise InputError(f"{path}: no such file")
    try:
        frame = readers[path.suffix.lower()]()
    except InputError:
        raise
    # each reader has error types of its own; all mean an unreadable file; a panic is no Exception
    except (Exception, polars.exceptions.PanicException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a readable {path.suffix.lower()} file: {_short(reason)}") from None
    for name in frame.columns:
        original, renamed, _ = name.rpartition("_duplicated_")  # how polars keeps equal names of a CSV apart
        if renamed and original in frame.columns:
            raise InputError(f"{path}: two columns are named {original!r}")
    return frame


def _read_npz(path: Path) -> "polars.DataFrame":
    """Every array is a column, a two-dimensional one is a column for each of its own: `x[0]`, `x[1]`, ..."""
    import polars

    columns: dict[str, NDArray[Any]] = {}
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a readable .npz file: not a zip archive")
    with np.load(path, allow_pickle=False) as arrays:
        for name, array in arrays.items():
            if array.ndim == 1:
                columns[name] = array
            elif array.ndim == 2:
                columns |= {f"{name}[{i}]": array[:, i] for i in range(array.shape[1])}
            else:
                raise InputError(f"{path}: array {name!r} has shape {array.shape}; must have 1 or 2 dimensions")
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: arrays differ in length: {lengths}")
    return polars.DataFrame(columns)


def _numbers(path: Path, column: "polars.Series", what: str = "column") -> NDArray[np.float64]:
    """A column as float64, or an error that names the first cell that is not a finite number."""
    import polars

    if not (column.dtype.is_numeric() or column.dtype in (polars.Boolean, polars.String, polars.Null)):
        raise InputError(f"{path}: {what} {column.name!r} holds {column.dtype}; must hold numbers")
    cells = column.str.strip_chars() if column.dtype == polars.String else column
    numbers = cells.cast(polars.Float64, strict=False)
    found = numbers.to_numpy()
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        row = int(bad[0])
        cell = column[row]
        found_there = "is empty" if cell is None or cell == "" else f"holds {_short(repr(cell))}"
        if isinstance(cell, str) and cell and numbers[row] is None:
            found_there += ", text where a number is due"
        raise InputError(f"{path}: row {row + 1}, {what} {column.name!r} {found_there}; must be a finite number")
    return found


def _labels(path: Path, column: "polars.Series") -> NDArray[Any]:
    """The target column as integers or text, or an error that names the first cell that is neither."""
    import polars

    if column.null_count():
        row = int(column.is_null().arg_max() or 0)
        raise InputError(f"{path}: row {row + 1}, target column {column.name!r} is empty")
    if column.dtype == polars.String:
        column = column.str.strip_chars()
        if (empty := column == "").any():
            raise InputError(f"{path}: row {int(empty.arg_max() or 0) + 1}, target column {column.name!r} is empty")
        return np.asarray(column.to_list())
    if not (column.dtype.is_numeric() or column.dtype == polars.Boolean):
        raise InputError(f"{path}: target column {column.name!r} holds {column.dtype}; must hold integers or text")
    if column.dtype in (polars.Int128, polars.UInt128):  # NumPy has no such integers
        raise InputError(f"{path}: target column {column.name!r} holds integers beyond 64 bits; write them as text")
    values_N = column.cast(polars.Float64).to_numpy() if column.dtype.is_decimal() else column.to_numpy()
    if values_N.dtype.kind == "f":
        values_N = values_N.astype(np.float64)
        with np.errstate(invalid="ignore"):
            # from 2^53 on, neighbouring integers share one float64
            bad = np.flatnonzero(~((values_N == np.trunc(values_N)) & (np.abs(values_N) < 2**53)))
        if len(bad):
            raise InputError(
                f"{path}: row {bad[0] + 1}, target column {column.name!r} holds {values_N[bad[0]]}; "
                "a class must be an integer or text; numbers need loss.name = mse or huber"
            )
        values_N = values_N.astype(np.int64)
    return values_N


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
