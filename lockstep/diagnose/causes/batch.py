"""The rows of an update and the initial parameters: what was fed, against what should have been."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import Batches, PreparedData
from lockstep.diagnose.causes.judge import Alternative, Tensors
from lockstep.diagnose.causes.precision import FORMATS, rounded_to
from lockstep.diagnose.causes.side import Side, prepared_data
from lockstep.numbers import factor
from lockstep.oracle.arithmetic import Array
from lockstep.records.trace import Trace

__all__ = ["alternatives", "null", "recorded"]

EPOCHS = 2
ROUNDING = 1e-12  # of a factor that was fitted to float64 features


@dataclass(frozen=True)
class Rows:
    """The rows of one update: x (B, ...) and y (B,)."""

    x: Array
    y: NDArray[Any]


def recorded(side: Side) -> Tensors:
    """x, y and the masks as they were recorded."""
    found = side.batch()
    return {} if found is None else _tensors(Rows(*found[:2]), found[2])


def null(side: Side) -> Tensors | None:
    """What should have been fed: by the recipe's data, or else what the other traces hold."""
    source, update = _Source(side), side.update
    rows = source.rows(update)
    return None if rows is None else _tensors(rows, source.masks(update))


def alternatives(side: Side, found: Tensors) -> Iterator[Alternative]:
    """The known other ways, those with a free number last."""
    source, mine = _Source(side), side.batch()
    wanted = source.rows(side.update)
    if mine is None or wanted is None:
        return
    fed, masks = Rows(*mine[:2]), source.masks(side.update)
    yield from _other_updates(side, source, masks)
    yield from _matched(fed, wanted, masks)
    yield from _labels(wanted, fed, source.shifted_labels(side.update), masks)
    yield from _features(wanted, source, masks)
    yield from _other_masks(wanted, mine[2], masks)
    yield from _known(fed, source, masks)
    yield from _scaled(fed, wanted, masks)


def _tensors(rows: Rows, masks: tuple[NDArray[np.bool_], ...] = ()) -> Tensors:
    found = {"batch/x": rows.x.astype(np.float64), "batch/y": rows.y.astype(np.float64)}
    return found | {f"batch/mask{i}": mask.astype(np.float64) for i, mask in enumerate(masks)}


class _Source:
    """What should be fed: the prepared data of the recipe, else what the other traces recorded."""

    def __init__(self, side: Side) -> None:
        self.others: tuple[Trace, ...] = side.others
        self.data: PreparedData | None = None
        self.drawn: dict[int, Batches] = {}
        if side.recipe is not None and "recipe" in side.trace.header:
            found = prepared_data(side.recipe, side.trace.header["data_hash"])
            self.data = found.cast(side.recipe.dtype) if found is not None else None

    def rows(self, update: int) -> Rows | None:
        if self.data is not None:
            rows = np.concatenate([rows for rows, _ in self._numbered(update)])
            return Rows(self.data.train_x_ND[rows].astype(np.float64), self.data.train_y_N[rows])
        for trace in self.others:
            found = Side("", trace, update).batch()
            if found is not None:
                return Rows(*found[:2])
        return None

    def masks(self, update: int) -> tuple[NDArray[np.bool_], ...]:
        if self.data is None:
            found = [Side("", trace, update).batch() for trace in self.others]
            return next((batch[2] for batch in found if batch is not None), ())
        epoch = update // self.data.updates_per_epoch
        masks = self.data.masks(epoch)
        return tuple(
            np.concatenate([mask_TBH[t, : len(rows)] for rows, t in self._numbered(update)])
            for mask_TBH in masks
        )

    def shifted_labels(self, update: int) -> dict[int, NDArray[Any]]:
        """The labels of the rows so many places before those of an update."""
        if self.data is None:
            return {}
        rows = np.concatenate([rows for rows, _ in self._numbered(update)])
        return {shift: np.roll(self.data.train_y_N, shift)[rows] for shift in (1, -1)}

    def updates(self, update: int) -> range:
        """The updates of which there are rows, no further than `EPOCHS` away, and past the end of
        the run too.
        """
        if self.data is not None:
            reach = EPOCHS * self.data.updates_per_epoch
            return range(max(update - reach, 0), update + reach + 1)
        held = [
            int(name.split("/")[1])
            for trace in self.others
            for name in trace.arrays
            if name.startswith("detail/")
        ]
        return range(min(held, default=0), max(held, default=-1) + 1)

    def _numbered(self, update: int) -> list[tuple[NDArray[np.int64], int]]:
        """The row numbers of each batch of an update, and the batch's place in its epoch."""
        assert self.data is not None
        epoch, place = divmod(update, self.data.updates_per_epoch)
        if epoch not in self.drawn:
            self.drawn[epoch] = self.data.batches(epoch)
        batches, many = self.drawn[epoch], self.data.accumulate
        places = range(place * many, min((place + 1) * many, self.data.batches_per_epoch))
        return [(batches.rows_TB[t, : batches.count_T[t]], t) for t in places]


def _other_updates(
    side: Side, source: _Source, masks: tuple[NDArray[np.bool_], ...]
) -> Iterator[Alternative]:
    """The rows of another update."""
    wanted = source.rows(side.update)
    for update in sorted(source.updates(side.update), key=lambda update: abs(update - side.update)):
        rows = source.rows(update) if update != side.update else None
        if rows is None or wanted is None:
            continue
        dropped = update > side.update and len(wanted.y) < len(rows.y)
        if dropped:
            key, text = (
                "dropped-last-batch",
                f"{{side}} leaves out the short last batch: it is at that of update {update}",
            )
        else:
            key, text = "other-order", f"{{side}} is fed the rows of update {update}"
        page = "padded-batch-in-the-mean" if dropped else ""
        yield Alternative(key, text, page, _tensors(rows, masks))


def _keys(rows: Rows) -> list[bytes]:
    flat = rows.x.reshape(len(rows.y), -1).astype(np.float64)
    return [row.tobytes() for row in np.column_stack([flat, rows.y.astype(np.float64)])]


def _matched(
    fed: Rows, wanted: Rows, masks: tuple[NDArray[np.bool_], ...]
) -> Iterator[Alternative]:
    """What was fed, where its rows are known ones."""
    if fed.x.shape[1:] != wanted.x.shape[1:]:
        return
    mine, its = _keys(fed), _keys(wanted)
    as_fed = _tensors(fed, masks)
    if len(mine) == len(its) and sorted(mine) == sorted(its):
        yield Alternative(
            "other-order", "{side} is fed the right rows in another order", "", as_fed
        )
    if len(mine) > len(its) and mine[: len(its)] == its:
        rest = fed.x[len(its) :]
        told = "rows of zeros" if not rest.any() else "more rows"
        text = f"{{side}} pads the batch of {len(its)} with {len(mine) - len(its)} {told}"
        yield Alternative("padded-batch", text, "padded-batch-in-the-mean", as_fed)
    if len(mine) < len(its) and mine == its[: len(mine)]:
        text = f"{{side}} is fed the first {len(mine)} of {len(its)} rows"
        yield Alternative("other-rows", text, "", as_fed)


def _known(
    fed: Rows, source: _Source, masks: tuple[NDArray[np.bool_], ...]
) -> Iterator[Alternative]:
    """What was fed, where its rows are some of the data's."""
    mine = _keys(fed)
    if source.data is None:
        return
    data = source.data
    for x_ND, y_N, told in (
        (data.train_x_ND, data.train_y_N, "other rows of the training part"),
        (data.held_out_x_ND, data.held_out_y_N, "held-out rows"),
    ):
        known = {key: place for place, key in enumerate(_keys(Rows(x_ND, y_N)))}
        places = [known[key] for key in mine if key in known]
        if len(places) == len(mine):
            ordered = told.startswith("other") and all(b - a == 1 for a, b in pairwise(places))
            text = (
                "{side} does not shuffle: it is fed the rows as they lie"
                if ordered
                else f"{{side}} is fed {told}"
            )
            yield Alternative(
                "other-order" if ordered else "other-rows", text, "", _tensors(fed, masks), rank=1
            )


def _labels(
    wanted: Rows, fed: Rows, shifted: dict[int, NDArray[Any]], masks: tuple[NDArray[np.bool_], ...]
) -> Iterator[Alternative]:
    """The right features with other labels."""
    for shift, y in shifted.items():
        text = (
            f"{{side}}'s rows have the labels of the rows {abs(shift)} "
            f"{'before' if shift > 0 else 'after'} them"
        )
        yield Alternative("labels-shifted", text, "", _tensors(Rows(wanted.x, y), masks))
    for shift in range(1, len(wanted.y)):
        text = (
            f"{{side}}'s labels are shifted against the rows by {min(shift, len(wanted.y) - shift)}"
        )
        yield Alternative(
            "labels-shifted", text, "", _tensors(Rows(wanted.x, np.roll(wanted.y, shift)), masks)
        )
    for step in (-1, 1):
        text = f"{{side}}'s labels are numbered from {step} on, not from 0"
        yield Alternative(
            "labels-shifted", text, "", _tensors(Rows(wanted.x, wanted.y + step), masks)
        )
    if fed.y.shape == wanted.y.shape and (np.sort(fed.y) == np.sort(wanted.y)).all():
        text = "{side}'s labels are in another order than the rows"
        yield Alternative("labels-shifted", text, "", _tensors(Rows(wanted.x, fed.y), masks))


def _features(
    wanted: Rows, source: _Source, masks: tuple[NDArray[np.bool_], ...]
) -> Iterator[Alternative]:
    """The right rows with their features scaled or rounded otherwise."""
    options = [
        ("features-rounded", f"rounded to {name}", rounded_to(name, wanted.x)) for name in FORMATS
    ]
    data = source.data
    if data is not None:
        n = len(data.train_y_N)
        options += [
            ("features-scaled", "not standardised", wanted.x * data.scale_D + data.mean_D),
            ("features-scaled", "centred but not scaled", wanted.x * data.scale_D),
            (
                "features-scaled",
                "scaled by the deviation over n - 1",
                wanted.x * np.sqrt((n - 1) / n),
            ),
            (
                "features-scaled",
                "standardised twice",
                wanted.x / data.scale_D - data.mean_D / data.scale_D,
            ),
        ]
    for key, told, x in options:
        yield Alternative(
            key, f"{{side}}'s features are {told}", "", _tensors(Rows(x, wanted.y), masks)
        )


def _scaled(fed: Rows, wanted: Rows, masks: tuple[NDArray[np.bool_], ...]) -> Iterator[Alternative]:
    """The right rows with each column by a factor, and shifted."""
    if fed.x.shape != wanted.x.shape or len(fed.y) < 4:
        return
    flat, mine = (rows.x.reshape(len(rows.y), -1) for rows in (wanted, fed))
    centre, centre_mine = flat.mean(axis=0), mine.mean(axis=0)
    spread = np.square(flat - centre).sum(axis=0)
    scale = ((flat - centre) * (mine - centre_mine)).sum(axis=0) / np.where(spread > 0, spread, 1.0)
    x = ((flat - centre) * scale + centre_mine).reshape(fed.x.shape)
    least, most = scale.min(), scale.max()
    is_one = most - least <= 1e-3 * min(abs(most), max(abs(most - 1), ROUNDING))
    told = factor(most) if is_one else f"{factor(least)} to {factor(most)}, by column"
    is_shifted = max(abs(least - 1), abs(most - 1)) <= ROUNDING
    text = (
        "{side}'s features are shifted"
        if is_shifted
        else f"{{side}}'s features are scaled by {told}"
    )
    yield Alternative("features-scaled", text, "", _tensors(Rows(x, wanted.y), masks), rank=2)


def _other_masks(
    wanted: Rows, mine: tuple[NDArray[np.bool_], ...], masks: tuple[NDArray[np.bool_], ...]
) -> Iterator[Alternative]:
    """The right rows with other masks."""
    if not masks:
        return
    shapes = [mask.shape for mask in masks]
    for told, other in (
        ("drops no unit", tuple(np.ones_like(mask) for mask in masks)),
        ("drops the units that should stay", tuple(~mask for mask in masks)),
        ("drops other units", mine if [mask.shape for mask in mine] == shapes else ()),
    ):
        if other:
            yield Alternative("other-mask", f"{{side}} {told}", "", _tensors(wanted, other))
