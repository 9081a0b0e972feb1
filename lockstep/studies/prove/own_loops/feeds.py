"""The batches that a loop is fed, rightly or wrongly, drawn without a framework."""

from collections.abc import Callable
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
            drawn.append((x, draw.integers(0, sizes.classes, sizes.rows)))
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


FEEDS: dict[str, ChangeBatches] = {
    "rows-shuffled": _each(lambda x, y: (np.roll(x, 3, axis=0), np.roll(y, 3, axis=0))),
    "one-batch-late": _one_late,
    "labels-shifted": _each(lambda x, y: (x, np.roll(y, 1, axis=0))),
    "features-over-n": _each(lambda x, y: (x * np.sqrt(64 / 63).astype(x.dtype), y)),
    "not-a-number": _with_nan,
    "odd-noise": _noisy,
}
"""Key -> the wrong batches, of the right ones and their loop."""
