"""The batches that a loop is fed, rightly or wrongly, drawn without a framework."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["FEEDS", "Batch", "batches"]

Batch = tuple[NDArray[Any], NDArray[Any]]
"""The features and labels of an update; a transformer's are tokens and the tokens after them."""


def batches(loop: Loop) -> list[Batch]:
    """The batches of the loop's updates."""
    sizes = loop.sizes
    draw = np.random.Generator(np.random.PCG64(7 + 100 * loop.seed))
    dtype: Any = np.float64 if loop.dtype == "float64" else np.float32
    drawn: list[Batch] = []
    for _ in range(loop.updates):
        if loop.model in ("gpt", "llama"):
            tokens = draw.integers(0, sizes.classes, (sizes.rows, sizes.row[0] + 1))
            drawn.append((tokens[:, :-1].copy(), tokens[:, 1:].copy()))
        else:
            x = draw.normal(size=(sizes.rows, *sizes.row)).astype(dtype)
            if loop.loss == "squares":
                y = draw.normal(size=(sizes.rows, sizes.classes)).astype(dtype)
            else:
                y = draw.integers(0, sizes.classes, sizes.rows)
            drawn.append((x, y))
    return FEEDS[loop.feed](drawn, loop) if loop.feed else drawn


# ---- wrong batches


ChangeBatches = Callable[[list[Batch], Loop], list[Batch]]


def _each(change: Callable[[NDArray[Any], NDArray[Any]], Batch]) -> ChangeBatches:
    return lambda drawn, loop: [change(x, y) for x, y in drawn]


def _one_late(drawn: list[Batch], loop: Loop) -> list[Batch]:
    return [drawn[0], *drawn[:-1]]


def _with_nan(drawn: list[Batch], loop: Loop) -> list[Batch]:
    x = drawn[1][0].copy()
    x[0, 0] = np.nan
    return [drawn[0], (x, drawn[1][1]), *drawn[2:]]


def _noisy(drawn: list[Batch], loop: Loop) -> list[Batch]:
    """Noise on all features, or a fifth of the tokens drawn anew."""
    draw = np.random.Generator(np.random.PCG64(loop.odd))

    def noisy(x: NDArray[Any]) -> NDArray[Any]:
        if x.dtype.kind == "f":
            return np.asarray(x + draw.normal(scale=0.1, size=x.shape).astype(x.dtype))
        others = draw.integers(int(x.max()) + 1, size=x.shape)
        return np.asarray(np.where(draw.random(x.shape) < 0.2, others, x))

    return [(noisy(x), y) for x, y in drawn]


def _other_rows(drawn: list[Batch], loop: Loop) -> list[Batch]:
    """The batches of other rows, as of another seed."""
    return batches(replace(loop, seed=loop.seed + 50, feed=""))


def _half_flipped(x: NDArray[Any], y: NDArray[Any]) -> Batch:
    flipped = x.copy()
    flipped[::2] = x[::2, ..., ::-1]
    return flipped, y


def _as_text(y: NDArray[Any]) -> NDArray[Any]:
    """Classes numbered from 8 on, in the order of their numbers as text: 10, 11, 12, 8, 9."""
    order = sorted(range(5), key=lambda label: str(label + 8))
    return np.asarray(np.argsort(order)[y])


def _padded(is_left: bool) -> ChangeBatches:
    """Two places of each second text are padding, token 0, on its left or on its right."""

    def padded(x: NDArray[Any], y: NDArray[Any]) -> Batch:
        text = np.concatenate([x, y[:, -1:]], axis=1)
        text[text == 0] = 1
        text[::2, -2:] = 0
        if is_left:
            text[::2] = np.roll(text[::2], 2, axis=1)
        return text[:, :-1].copy(), text[:, 1:].copy()

    return _each(padded)


FEEDS: dict[str, ChangeBatches] = {
    "rows-shuffled": _each(lambda x, y: (np.roll(x, 3, axis=0), np.roll(y, 3, axis=0))),
    "one-batch-late": _one_late,
    "other-rows": _other_rows,
    "first-rows": _each(lambda x, y: (x[: len(x) // 2], y[: len(y) // 2])),
    "labels-shifted": _each(lambda x, y: (x, np.roll(y, 1, axis=0))),
    "labels-as-text": _each(lambda x, y: (x, _as_text(y))),
    "labels-from-1": _each(lambda x, y: (x, np.minimum(y, 2) + 1)),
    "labels-merged": _each(lambda x, y: (x, np.minimum(y, 2))),
    "labels-replaced": _each(lambda x, y: (x, np.where(y == 2, 4, y))),
    "features-over-n": _each(lambda x, y: (x * np.sqrt(64 / 63).astype(x.dtype), y)),
    "features-rounded": _each(lambda x, y: (x.astype(np.float16).astype(x.dtype), y)),
    "features-shifted": _each(lambda x, y: (x + 0.5, y)),
    "half-flipped": _each(_half_flipped),
    "channels-reversed": _each(lambda x, y: (x[:, ::-1].copy(), y)),
    "padded-on-the-right": _padded(is_left=False),
    "padded-on-the-left": _padded(is_left=True),
    "not-a-number": _with_nan,
    "odd-noise": _noisy,
}
"""Key -> the wrong batches, of the right ones and their loop."""
