"""The alternatives of a batch: what was fed, against what should have been."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Batches, PreparedData
from lockstep.diagnose.causes.alternatives import Alternative
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.causes.side import Labels, Masks, RecordedBatch, Side, prepared_data
from lockstep.diagnose.causes.tensors import Tensors
from lockstep.numbers import factor
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace

__all__ = ["alternatives", "null", "recorded_by"]

EPOCHS = 2
"""Rows of another update are looked for so many epochs before and after it."""
ROUNDING = 1e-12  # of a factor that was fitted to float64 features


class Rows(NamedTuple):
    """The rows of one update: x (B, ...) and y (B,)."""

    x: Array
    y: Labels


def recorded_by(side: Side) -> Tensors:
    """x, y and the masks as they were recorded."""
    batch = side.batch()
    return {} if batch is None else _tensors(_rows_of(batch), batch.masks)


def null(side: Side) -> Tensors | None:
    """What should have been fed: by the recipe's data, or else what the other traces hold."""
    source = _Source(side)
    rows = source.rows(side.update)
    return None if rows is None else _tensors(rows, source.masks(side.update))


def alternatives(side: Side, recorded: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    source = _Source(side)
    batch = side.batch()
    right = source.rows(side.update)
    if batch is None or right is None:
        return
    fed = _rows_of(batch)
    masks = source.masks(side.update)
    yield from _other_updates(side, source, masks)
    yield from _reordered(fed, right, masks)
    yield from _other_labels(right, fed, source.shifted_labels(side.update), masks)
    yield from _other_features(right, source, masks)
    yield from _other_masks(right, batch.masks, masks)
    yield from _other_parts(fed, source, masks)
    yield from _scaled(fed, right, masks)


def _rows_of(batch: RecordedBatch) -> Rows:
    return Rows(batch.x, batch.y)


def _tensors(rows: Rows, masks: Masks = ()) -> Tensors:
    tensors = {"batch/x": rows.x.astype(np.float64), "batch/y": rows.y.astype(np.float64)}
    for i, mask in enumerate(masks):
        tensors[f"batch/mask{i}"] = mask.astype(np.float64)
    return tensors


class _Source:
    """What should be fed: the prepared data of the recipe, else what the other traces recorded."""

    def __init__(self, side: Side) -> None:
        self.others: tuple[Trace, ...] = side.others
        self.data: PreparedData | None = None
        self.drawn: dict[int, Batches] = {}
        if side.recipe is not None and "recipe" in side.trace.header:
            data = prepared_data(side.recipe, side.trace.header["data_hash"])
            self.data = None if data is None else data.cast(side.recipe.dtype)

    def rows(self, update: int) -> Rows | None:
        if self.data is not None:
            numbers = self._numbers(update)
            x_BD = self.data.train_x_ND[numbers].astype(np.float64)
            return Rows(x_BD, self.data.train_y_N[numbers])
        batch = self._recorded(update)
        return None if batch is None else _rows_of(batch)

    def masks(self, update: int) -> Masks:
        if self.data is None:
            batch = self._recorded(update)
            return () if batch is None else batch.masks
        batches = self._batches(update)

        def of_update(mask_TBH: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.concatenate([mask_TBH[t, : len(numbers)] for numbers, t in batches])

        return tuple(map(of_update, self.data.masks(update // self.data.updates_per_epoch)))

    def shifted_labels(self, update: int) -> dict[int, Labels]:
        """The labels of the rows so many places before those of an update."""
        if self.data is None:
            return {}
        numbers = self._numbers(update)
        return {shift: np.roll(self.data.train_y_N, shift)[numbers] for shift in (1, -1)}

    def updates(self, update: int) -> range:
        """The updates of which there are rows, no further than `EPOCHS` away, and past the end of
        the run too.
        """
        if self.data is not None:
            reach = EPOCHS * self.data.updates_per_epoch
            return range(max(update - reach, 0), update + reach + 1)
        recorded_updates = [
            int(name.split("/")[1])
            for trace in self.others
            for name in trace.arrays
            if name.startswith("detail/")
        ]
        first = min(recorded_updates, default=0)
        last = max(recorded_updates, default=-1)
        return range(first, last + 1)

    def _recorded(self, update: int) -> RecordedBatch | None:
        """The batch as the first of the other traces has it that recorded it."""
        for trace in self.others:
            batch = Side("", trace, update).batch()
            if batch is not None:
                return batch
        return None

    def _numbers(self, update: int) -> NDArray[np.int64]:
        """The row numbers of an update."""
        return np.concatenate([numbers for numbers, _ in self._batches(update)])

    def _batches(self, update: int) -> list[tuple[NDArray[np.int64], int]]:
        """The row numbers of each batch of an update, and the batch's place in its epoch."""
        assert self.data is not None
        epoch, place = divmod(update, self.data.updates_per_epoch)
        if epoch not in self.drawn:
            self.drawn[epoch] = self.data.batches(epoch)
        batches = self.drawn[epoch]
        first = place * self.data.accumulate
        last = min(first + self.data.accumulate, self.data.batches_per_epoch)
        return [(batches.rows_TB[t, : batches.count_T[t]], t) for t in range(first, last)]


def _other_updates(side: Side, source: _Source, masks: Masks) -> Iterator[Alternative]:
    """The rows of another update."""
    right = source.rows(side.update)
    for update in sorted(source.updates(side.update), key=lambda update: abs(update - side.update)):
        rows = source.rows(update) if update != side.update else None
        if rows is None or right is None:
            continue
        if update > side.update and len(right.y) < len(rows.y):
            key = "dropped-last-batch"
            text = f"{{side}} leaves out the short last batch: it is fed that of update {update}"
            page = "padded-batch-in-the-mean"
        else:
            key = "other-order"
            text = f"{{side}} is fed the rows of update {update}"
            page = ""
        yield Alternative(key, text, page, _tensors(rows, masks))


def _keys(rows: Rows) -> list[bytes]:
    """A key of each row, by its features and label."""
    flat = rows.x.reshape(len(rows.y), -1).astype(np.float64)
    return [row.tobytes() for row in np.column_stack([flat, rows.y.astype(np.float64)])]


def _reordered(fed: Rows, right: Rows, masks: Masks) -> Iterator[Alternative]:
    """The right rows in another order, with others after them, or only the first of them."""
    if fed.x.shape[1:] != right.x.shape[1:]:
        return
    mine = _keys(fed)
    its = _keys(right)
    as_fed = _tensors(fed, masks)
    if len(mine) == len(its) and sorted(mine) == sorted(its):
        text = "{side} is fed the right rows in another order"
        yield Alternative("other-order", text, "", as_fed)
    if len(mine) > len(its) and mine[: len(its)] == its:
        kind = "more rows" if fed.x[len(its) :].any() else "rows of zeros"
        text = f"{{side}} pads the batch of {len(its)} with {len(mine) - len(its)} {kind}"
        yield Alternative("padded-batch", text, "padded-batch-in-the-mean", as_fed)
    if len(mine) < len(its) and mine == its[: len(mine)]:
        text = f"{{side}} is fed the first {len(mine)} of {len(its)} rows"
        yield Alternative("other-rows", text, "", as_fed)


def _other_parts(fed: Rows, source: _Source, masks: Masks) -> Iterator[Alternative]:
    """Rows from elsewhere in the data."""
    data = source.data
    if data is None:
        return
    keys = _keys(fed)
    as_fed = _tensors(fed, masks)
    places = _places(keys, Rows(data.train_x_ND, data.train_y_N))
    if len(places) == len(keys):
        if all(following - place == 1 for place, following in pairwise(places)):
            text = "{side} does not shuffle: it is fed the rows as they lie"
            yield Alternative("other-order", text, "", as_fed, rank=1)
        else:
            text = "{side} is fed other rows of the training part"
            yield Alternative("other-rows", text, "", as_fed, rank=1)
    if len(_places(keys, Rows(data.held_out_x_ND, data.held_out_y_N))) == len(keys):
        yield Alternative("other-rows", "{side} is fed held-out rows", "", as_fed, rank=1)


def _places(keys: list[bytes], rows: Rows) -> list[int]:
    """The places of the keys among the rows; keys of no row are left out."""
    place_of = {key: place for place, key in enumerate(_keys(rows))}
    return [place_of[key] for key in keys if key in place_of]


def _other_labels(
    right: Rows, fed: Rows, shifted: dict[int, Labels], masks: Masks
) -> Iterator[Alternative]:
    """The right features with other labels."""

    def with_labels(text: str, y: Labels) -> Alternative:
        return Alternative("labels-shifted", text, "", _tensors(Rows(right.x, y), masks))

    for shift, y in shifted.items():
        word = "before" if shift > 0 else "after"
        text = f"{{side}}'s rows have the labels of the rows {abs(shift)} {word} them"
        yield with_labels(text, y)
    for shift in range(1, len(right.y)):
        least = min(shift, len(right.y) - shift)
        text = f"{{side}}'s labels are shifted against the rows by {least}"
        yield with_labels(text, np.roll(right.y, shift))
    for step in (-1, 1):
        text = f"{{side}}'s labels are numbered from {step} on, not from 0"
        yield with_labels(text, right.y + step)
    if np.array_equal(np.sort(fed.y), np.sort(right.y)):
        yield with_labels("{side}'s labels are in another order than the rows", fed.y)


def _other_features(right: Rows, source: _Source, masks: Masks) -> Iterator[Alternative]:
    """The right rows with their features rounded, or scaled otherwise."""

    def with_features(key: str, what: str, x: Array) -> Alternative:
        tensors = _tensors(Rows(x, right.y), masks)
        return Alternative(key, f"{{side}}'s features are {what}", "", tensors)

    for name in FORMATS:
        yield with_features("features-rounded", f"rounded to {name}", rounded_to(name, right.x))
    data = source.data
    if data is None:
        return
    rows = len(data.train_y_N)
    scalings = {
        "not standardised": right.x * data.scale_D + data.mean_D,
        "centred but not scaled": right.x * data.scale_D,
        "scaled by the deviation over n - 1": right.x * np.sqrt((rows - 1) / rows),
        "standardised twice": right.x / data.scale_D - data.mean_D / data.scale_D,
    }
    for what, x in scalings.items():
        yield with_features("features-scaled", what, x)


def _scaled(fed: Rows, right: Rows, masks: Masks) -> Iterator[Alternative]:
    """The right rows with each column by a factor, and shifted."""
    if fed.x.shape != right.x.shape or len(fed.y) < 4:
        return
    flat = right.x.reshape(len(right.y), -1)
    mine = fed.x.reshape(len(fed.y), -1)
    centred = flat - flat.mean(axis=0)
    centre_mine = mine.mean(axis=0)
    spread = np.square(centred).sum(axis=0)
    spread_mine = (centred * (mine - centre_mine)).sum(axis=0)
    scale = spread_mine / np.where(spread > 0, spread, 1.0)
    x = (centred * scale + centre_mine).reshape(fed.x.shape)
    least = scale.min()
    most = scale.max()
    if max(abs(least - 1), abs(most - 1)) <= ROUNDING:
        text = "{side}'s features are shifted"
    elif most - least <= 1e-3 * min(abs(most), max(abs(most - 1), ROUNDING)):
        text = f"{{side}}'s features are scaled by {factor(most)}"
    else:
        text = f"{{side}}'s features are scaled by {factor(least)} to {factor(most)}, by column"
    yield Alternative("features-scaled", text, "", _tensors(Rows(x, right.y), masks), rank=2)


def _other_masks(right: Rows, recorded_masks: Masks, masks: Masks) -> Iterator[Alternative]:
    """The right rows with other masks."""
    if not masks:
        return
    options = {
        "drops no unit": tuple(np.ones_like(mask) for mask in masks),
        "drops the units that should stay": tuple(~mask for mask in masks),
    }
    if [mask.shape for mask in recorded_masks] == [mask.shape for mask in masks]:
        options["drops other units"] = recorded_masks
    for what, other in options.items():
        yield Alternative("other-mask", f"{{side}} {what}", "", _tensors(right, other))
