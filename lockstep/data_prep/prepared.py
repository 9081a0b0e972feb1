"""The input of every trainer, epoch by epoch: rows, labels, initial parameters, order and masks."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lockstep.data_prep.draws import (
    MASKS,
    ORDER,
    Parameters,
    Shapes,
    generator_of,
    layer_sizes,
)
from lockstep.data_prep.table import Note
from lockstep.errors import InputError
from lockstep.files import headers
from lockstep.files.headers import check_header
from lockstep.tensor_file import Header, arrays_below, hash_arrays, read_tensors, write_tensors

__all__ = ["IGNORED", "Batches", "OwnDraws", "PreparedData", "updates_per_epoch"]

SCHEMA = "lockstep.data/1"

IGNORED = -1
"""The label of a row whose class the loss ignores."""

SMALL = 1_000_000
"""Multiply-adds of a batch's forward pass below which one thread is faster than several."""

HEADER_FIELDS = (
    "columns",
    "classes",
    "warnings",
    "batch",
    "drop_last",
    "epochs",
    "seed",
    "outputs",
    "target",
    "target_mean",
    "target_scale",
    "accumulate",
    "accumulate_mean",
    "hidden",
    "dropout",
)

ARRAY_FIELDS = ("train_x_ND", "train_y_N", "held_out_x_ND", "held_out_y_N", "mean_D", "scale_D")


class Batches(NamedTuple):
    """The T batches of one epoch, of B rows each; a short last batch is padded."""

    rows_TB: NDArray[np.int64]
    """Numbers of training rows."""
    weight_TB: NDArray[np.float64]
    """1 for a row that counts, and 0 for padding."""
    count_T: NDArray[np.int64]
    """The number of rows that count."""
    share_T: NDArray[np.float64]
    """The weight of a batch in the gradient of its update; an update's weights add up to 1."""
    last_T: NDArray[np.bool_]
    """Whether a batch is the last of its update."""


@dataclass(frozen=True)
class PreparedData:
    """The input of every trainer.

    Arrays are float64, and labels int64. `cast` rounds them to a recipe's dtype.

    - `classes` are those that the model tells apart; a row of the ignored class has the label
      `IGNORED`. Where a number is predicted there are no classes, and the number is standardised:
      (y - `target_mean`) / `target_scale`.
    - `outputs` is the model's number of output units.
    - `notes` say how a file was read, and what became of missing values and categories.
    - `first_row` is the number in the table of the first training row.

    Neither `notes` nor `first_row` is saved.
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
    notes: tuple[Note, ...] = ()
    first_row: int = 0

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return updates_per_epoch(len(self.train_y_N), self.batch, drop_last=self.drop_last)

    @property
    def updates_per_epoch(self) -> int:
        """The number of updates in an epoch; the last may take fewer batches than `accumulate`."""
        return -(-self.batches_per_epoch // self.accumulate)

    @property
    def updates(self) -> int:
        """T, the number of updates of the whole run."""
        return self.epochs * self.updates_per_epoch

    @property
    def is_small(self) -> bool:
        """Whether a batch's forward pass is too small to gain from several threads.

        Sharing it costs more than it saves, and much more beside busy neighbours.
        """
        layers = layer_sizes(len(self.columns), self.hidden, self.outputs)
        multiply_adds = self.batch * sum(inputs * outputs for _, inputs, outputs in layers)
        return multiply_adds < SMALL

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
        """All of `Batches` but the rows."""
        places = np.arange(self.batches_per_epoch * self.batch)
        counts = places < len(self.train_y_N)
        weight_TB = counts.astype(np.float64).reshape(-1, self.batch)
        count_T = weight_TB.sum(axis=1).astype(np.int64)
        update_T = np.arange(len(count_T)) // self.accumulate
        size_T = count_T if self.accumulate_mean == "rows" else np.ones_like(count_T)
        share_T = size_T / np.bincount(update_T, weights=size_T)[update_T]
        last_T = np.diff(update_T, append=-1) != 0
        return weight_TB, count_T, share_T, last_T

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The rows in the order of an epoch."""
        return generator_of(self.seed, ORDER, epoch).permutation(len(self.train_y_N))

    def masks(self, epoch: int) -> list[NDArray[np.bool_]]:
        """The dropout masks of an epoch: one array (T, B, units) for each hidden layer.

        True is a unit that stays. Without dropout there are no masks.
        """
        if not self.dropout:
            return []
        masks = []
        for layer, units in enumerate(self.hidden, start=1):
            generator = generator_of(self.seed, MASKS, epoch, layer)
            # a batch at a time, because the draws take 8 times the memory of the masks
            masks_of_batches = [
                generator.random((self.batch, units)) >= self.dropout
                for _ in range(self.batches_per_epoch)
            ]
            masks.append(np.stack(masks_of_batches))
        return masks

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of rows, labels, initial parameters, and each epoch's order and masks."""
        arrays: dict[str, NDArray[Any] | Callable[[], NDArray[Any]]] = {
            "train_x": self.train_x_ND,
            "train_y": self.train_y_N,
            "held_out_x": self.held_out_x_ND,
            "held_out_y": self.held_out_y_N,
            **self.parameters,
        }
        # a long run has many epochs: each one is drawn when its turn comes, all layers together
        masks_of = lru_cache(maxsize=1)(self.masks)

        def packed_masks(epoch: int, layer: int) -> NDArray[np.uint8]:
            return np.packbits(masks_of(epoch)[layer])

        layers = len(self.hidden) if self.dropout else 0
        for epoch in range(self.epochs):
            arrays[f"order/{epoch}"] = partial(self._rows, epoch)
            for layer in range(layers):
                arrays[f"masks/{epoch}/{layer + 1}"] = partial(packed_masks, epoch, layer)
        return hash_arrays(arrays)

    def cast(self, dtype: DTypeLike) -> "PreparedData":
        """The same data with features, numbers to predict and initial parameters in `dtype`.

        The hash stays that of the float64 data, which runs of both precisions share.
        """
        rounded: dict[str, Any] = {}
        for name in ("train_x_ND", "held_out_x_ND", "train_y_N", "held_out_y_N"):
            array = getattr(self, name)
            if array.dtype.kind == "f":
                rounded[name] = array.astype(dtype)
        parameters = {name: array.astype(dtype) for name, array in self.parameters.items()}
        data = replace(self, **rounded, parameters=parameters)
        data.__dict__["hash"] = self.hash
        return data

    def save(self, path: Path) -> None:
        """Write one file, from which each trainer's process starts with the same bits.

        Raises:
            InputError: the file cannot be written.
        """
        header = {name: getattr(self, name) for name in HEADER_FIELDS}
        arrays = {name: getattr(self, name) for name in ARRAY_FIELDS}
        arrays |= {f"parameters/{name}": array for name, array in self.parameters.items()}
        write_tensors(path, SCHEMA, header, arrays)

    @staticmethod
    def load(path: Path) -> "PreparedData":
        """Read what `save` wrote, and check that its arrays fit its header.

        Raises:
            InputError: the file is missing, truncated or of another schema version; or a field or
                an array is missing, extra or wrong.
        """
        header, arrays = read_tensors(path, SCHEMA)
        _check_content(str(path), header, arrays)
        content: Header = {}
        for name, value in header.items():
            content[name] = tuple(value) if isinstance(value, list) else value
        content |= {name: arrays[name] for name in ARRAY_FIELDS}
        content["parameters"] = arrays_below(arrays, "parameters/")
        return PreparedData(**content)


@dataclass(frozen=True, kw_only=True)
class OwnDraws(PreparedData):
    """Data whose initial parameters, order and masks a framework drew by its own means.

    `orders_EN` has the order of the rows in each epoch. `draw_masks` draws an epoch's masks, as
    `masks` returns them.
    """

    orders_EN: NDArray[np.int64]
    draw_masks: Callable[[int], list[NDArray[np.bool_]]]

    @staticmethod
    def of(
        data: PreparedData,
        *,
        parameters: Parameters,
        seed: int,
        orders_EN: NDArray[np.int64],
        draw_masks: Callable[[int], list[NDArray[np.bool_]]],
    ) -> "OwnDraws":
        """The same rows with other draws."""
        content = {field.name: getattr(data, field.name) for field in fields(PreparedData)}
        content |= {"parameters": parameters, "seed": seed}
        return OwnDraws(**content, orders_EN=orders_EN, draw_masks=draw_masks)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The rows in the order of an epoch."""
        order_N: NDArray[np.int64] = self.orders_EN[epoch]
        return order_N

    def masks(self, epoch: int) -> list[NDArray[np.bool_]]:
        """The dropout masks of an epoch, as `PreparedData.masks` describes them."""
        return self.draw_masks(epoch) if self.dropout else []


def updates_per_epoch(rows: int, batch: int, *, drop_last: bool) -> int:
    """The number of batches in an epoch, and of updates where none are accumulated."""
    return rows // batch if drop_last else -(-rows // batch)


def _check_content(whose: str, header: Header, arrays: Parameters) -> None:
    """Raise InputError unless the arrays of prepared data fit their header and one another."""
    check_header(whose, headers.Data, header)
    layers = layer_sizes(len(header["columns"]), header["hidden"], header["outputs"])
    shapes = _parameter_shapes(layers)
    required = [*ARRAY_FIELDS, *(f"parameters/{layer}.weight" for layer, *_ in layers)]
    for name in required:
        if name not in arrays:
            raise InputError(f"{whose}: missing: {name!r}")
    extra = arrays.keys() - shapes.keys() - set(ARRAY_FIELDS)
    if extra:
        raise InputError(f"{whose}: extra: {min(extra)!r}")
    columns = len(header["columns"])
    for part in ("train", "held_out"):
        rows = arrays[f"{part}_y_N"].size
        shapes[f"{part}_x_ND"] = (rows, columns)
        shapes[f"{part}_y_N"] = (rows,)
    shapes["mean_D"] = (columns,)
    shapes["scale_D"] = (columns,)
    label = "i8" if header["classes"] else "f8"
    for name, array in arrays.items():
        dtype = np.dtype(label if name.endswith("_y_N") else "f8")
        if array.shape != shapes[name] or array.dtype != dtype:
            raise InputError(
                f"{whose}: {name}: {array.dtype} {array.shape}, expected {dtype} {shapes[name]}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{whose}: {name}: must be finite")
    classes = len(header["classes"])
    for name in ("train_y_N", "held_out_y_N"):
        labels = arrays[name]
        if not labels.size:
            raise InputError(f"{whose}: {name}: no rows")
        if classes and (labels.min() < IGNORED or labels.max() >= classes):
            raise InputError(
                f"{whose}: {name}: labels must be from 0 to {classes - 1}, or {IGNORED}"
            )
    if header["batch"] > len(arrays["train_y_N"]):
        raise InputError(
            f"{whose}: header: batch: {header['batch']} rows are more than the training rows"
        )


def _parameter_shapes(layers: list[tuple[str, int, int]]) -> Shapes:
    """The shape of every parameter that these layers may have, below "parameters/"."""
    shapes: Shapes = {}
    for i, (layer, fan_in, fan_out) in enumerate(layers, start=1):
        shapes[f"parameters/{layer}.weight"] = (fan_in, fan_out)
        shapes[f"parameters/{layer}.bias"] = (fan_out,)
        if i < len(layers):
            shapes[f"parameters/norm{i}.weight"] = (fan_out,)
            shapes[f"parameters/norm{i}.bias"] = (fan_out,)
    return shapes
