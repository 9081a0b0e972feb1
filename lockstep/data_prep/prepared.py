"""The input of every trainer, epoch by epoch: rows, labels, initial parameters, order and masks."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep.draws import MASKS, ORDER, Parameters, generator_of, layer_sizes
from lockstep.data_prep.table import Note
from lockstep.errors import InputError
from lockstep.files import headers
from lockstep.files.headers import check_header
from lockstep.tensor_file import arrays_below, hash_arrays, read_tensors, write_tensors

__all__ = ["IGNORED", "Batches", "OwnDraws", "PreparedData", "updates_per_epoch"]

SCHEMA = "lockstep.data/1"

IGNORED = -1
"""The label of a row whose class the loss ignores."""

SMALL = 1_000_000
"""Multiply-adds of a batch's forward pass below which one thread is faster than several."""

HEADER_FIELDS = (
    *("columns", "classes", "warnings", "batch", "drop_last", "epochs", "seed"),
    *("outputs", "target", "target_mean", "target_scale"),
    *("accumulate", "accumulate_mean", "hidden", "dropout"),
)

ARRAY_FIELDS = ("train_x_ND", "train_y_N", "held_out_x_ND", "held_out_y_N", "mean_D", "scale_D")


class Batches(NamedTuple):
    """The batches of one epoch, T of them. Every batch has B row numbers; a short last one is
    padded.

    rows_TB int64, row numbers into the training rows; weight_TB float64, 1 for a row that counts
    and 0 for
    padding; count_T int64, how many rows count; share_T float64, the weight of the batch in the
    gradient of its
    update: those of an update add up to 1; last_T bool, where a batch is the last of its update.
    """

    rows_TB: NDArray[np.int64]
    weight_TB: NDArray[np.float64]
    count_T: NDArray[np.int64]
    share_T: NDArray[np.float64]
    last_T: NDArray[np.bool_]


@dataclass(frozen=True)
class PreparedData:
    """The input of every trainer. Arrays are float64 (labels int64); `cast` rounds them to a
    recipe's dtype.

    `classes` are those that the model tells apart. A row of the ignored class has the label
    `IGNORED`. If a number is predicted there are no classes, and the number is standardised: (y -
    `target_mean`) / `target_scale`. `outputs` is the model's number of output units. `notes` say
    how a file was read and what became of missing values and categories. `first_row` is the number
    in the table of the first training row. Neither `notes` nor `first_row` is saved.
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
        """How many batches an epoch has."""
        return updates_per_epoch(len(self.train_y_N), self.batch, drop_last=self.drop_last)

    @property
    def updates_per_epoch(self) -> int:
        """How many updates an epoch has: its batches, `accumulate` at a time; the last update may
        take fewer.
        """
        return -(-self.batches_per_epoch // self.accumulate)

    @property
    def updates(self) -> int:
        """T, the number of optimizer updates of the whole run."""
        return self.epochs * self.updates_per_epoch

    @property
    def is_small(self) -> bool:
        """Whether a batch's forward pass has so few multiply-adds that sharing it between threads
        costs more than it saves, and much more beside busy neighbours."""
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
        """All of `Batches` but the rows."""
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
        return generator_of(self.seed, ORDER, epoch).permutation(len(self.train_y_N))

    def masks(self, epoch: int) -> list[NDArray[np.bool_]]:
        """For each hidden layer which units stay in each batch of an epoch, (T, B, units); none
        without dropout.
        """
        if not self.dropout:
            return []
        found = []
        for layer, units in enumerate(self.hidden, start=1):
            generator = generator_of(self.seed, MASKS, epoch, layer)
            # a batch at a time: the draws take 8 times the memory of the masks
            masks = [
                generator.random((self.batch, units)) >= self.dropout
                for _ in range(self.batches_per_epoch)
            ]
            found.append(np.stack(masks))
        return found

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of every input: rows, labels, initial parameters, order and masks of every
        epoch."""
        arrays: dict[str, Any] = {
            "train_x": self.train_x_ND,
            "train_y": self.train_y_N,
            "held_out_x": self.held_out_x_ND,
            "held_out_y": self.held_out_y_N,
            **self.parameters,
        }
        # drawn when their turn comes, which all of an epoch's layers have together: a long run has
        # many epochs
        masks = lru_cache(maxsize=1)(self.masks)
        for epoch in range(self.epochs):
            arrays[f"order/{epoch}"] = partial(self._rows, epoch)
            for layer in range(len(self.hidden) if self.dropout else 0):
                arrays[f"masks/{epoch}/{layer + 1}"] = partial(
                    lambda e, i: np.packbits(masks(e)[i]), epoch, layer
                )
        return hash_arrays(arrays)

    def cast(self, dtype: Any) -> "PreparedData":
        """The same data with features, numbers to predict and initial parameters rounded to
        `dtype`. The hash stays that of the float64 data, which shows that runs of both
        precisions share it."""
        names = ("train_x_ND", "held_out_x_ND", "train_y_N", "held_out_y_N")
        numbers = {name: getattr(self, name) for name in names}
        changed = {
            name: array.astype(dtype) for name, array in numbers.items() if array.dtype.kind == "f"
        }
        parameters = {name: array.astype(dtype) for name, array in self.parameters.items()}
        data = replace(self, **changed, parameters=parameters)
        data.__dict__["hash"] = self.hash
        return data

    def save(self, path: Path) -> None:
        """Write all to one file, so that each trainer's process starts from the same bits."""
        header = {name: getattr(self, name) for name in HEADER_FIELDS}
        arrays = {name: getattr(self, name) for name in ARRAY_FIELDS}
        write_tensors(
            path,
            SCHEMA,
            header,
            arrays | {f"parameters/{k}": v for k, v in self.parameters.items()},
        )

    @staticmethod
    def load(path: Path) -> "PreparedData":
        """Read what `save` wrote, and check that its arrays fit its header.

        Raises:
            InputError: not there, truncated, of another schema version, or with fields or arrays
                that are missing, extra or wrong; names them.
        """
        header, arrays = read_tensors(path, SCHEMA)
        _check_content(str(path), header, arrays)
        content: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in header.items()
        }
        content |= {name: arrays[name] for name in ARRAY_FIELDS}
        content["parameters"] = arrays_below(arrays, "parameters/")
        return PreparedData(**content)


@dataclass(frozen=True, kw_only=True)
class OwnDraws(PreparedData):
    """Data whose initial parameters, order and masks a framework drew by its own means.

    `orders_EN` has the order of the rows in each epoch; `draw_masks` returns what `masks` returns.
    """

    orders_EN: NDArray[np.int64]
    draw_masks: Callable[[int], list[NDArray[np.bool_]]]

    @staticmethod
    def of(data: PreparedData, **drawn: Any) -> "OwnDraws":
        """The same rows with other draws."""
        return OwnDraws(
            **{field.name: getattr(data, field.name) for field in fields(PreparedData)} | drawn
        )

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The rows in the order of an epoch."""
        order_N: NDArray[np.int64] = self.orders_EN[epoch]
        return order_N

    def masks(self, epoch: int) -> list[NDArray[np.bool_]]:
        """For each hidden layer which units stay in each batch of an epoch, (T, B, units); none
        without dropout.
        """
        return self.draw_masks(epoch) if self.dropout else []


def updates_per_epoch(rows: int, batch: int, *, drop_last: bool) -> int:
    """How many batches, and so updates without accumulation, an epoch has."""
    return rows // batch if drop_last else -(-rows // batch)


def _check_content(whose: str, header: Any, arrays: Parameters) -> None:
    """Raise InputError unless the arrays of prepared data fit their header and one another."""
    check_header(whose, headers.Data, header)
    missing = [name for name in ARRAY_FIELDS if name not in arrays]
    layers = layer_sizes(len(header["columns"]), header["hidden"], header["outputs"])
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (layer, fan_in, fan_out) in enumerate(layers, start=1):
        shapes |= {
            f"parameters/{layer}.weight": (fan_in, fan_out),
            f"parameters/{layer}.bias": (fan_out,),
        }
        shapes |= {
            f"parameters/norm{i}.{kind}": (fan_out,)
            for kind in ("weight", "bias")
            if i < len(layers)
        }
    missing += [
        f"parameters/{layer}.weight"
        for layer, *_ in layers
        if f"parameters/{layer}.weight" not in arrays
    ]
    extra = sorted(arrays.keys() - shapes.keys() - set(ARRAY_FIELDS))
    if missing or extra:
        raise InputError(f"{whose}: {'missing' if missing else 'extra'}: {(missing or extra)[0]!r}")
    columns = len(header["columns"])
    shapes |= {
        f"{part}_x_ND": (arrays[f"{part}_y_N"].size, columns) for part in ("train", "held_out")
    }
    shapes |= {f"{part}_y_N": (arrays[f"{part}_y_N"].size,) for part in ("train", "held_out")}
    shapes |= {"mean_D": (columns,), "scale_D": (columns,)}
    label = "i8" if header["classes"] else "f8"
    for name, array in arrays.items():
        dtype = np.dtype(label if name.endswith("_y_N") else "f8")
        if array.shape != shapes[name] or array.dtype != dtype:
            raise InputError(
                f"{whose}: {name}: {array.dtype} {array.shape}, expected {dtype} {shapes[name]}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{whose}: {name}: must be finite")
    for name in ("train_y_N", "held_out_y_N"):
        labels, most = arrays[name], len(header["classes"])
        if not labels.size:
            raise InputError(f"{whose}: {name}: no rows")
        if most and (labels.min() < IGNORED or labels.max() >= most):
            raise InputError(f"{whose}: {name}: labels must be from 0 to {most - 1}, or {IGNORED}")
    if header["batch"] > len(arrays["train_y_N"]):
        raise InputError(
            f"{whose}: header: batch: {header['batch']} rows are more than the training rows"
        )
