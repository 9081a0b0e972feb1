"""The effect of warmup on this run: the same numbers with it and without, and what they say."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.backends import BACKENDS
from lockstep.numbers import number, ratio
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.report.run.epochs import pair
from lockstep.report.run.schedule_stage import warmup_span

__all__ = ["EffectRow", "WarmupEffect", "first_update", "warmup_effect"]

Reduction = Callable[[NDArray[np.float64]], Any]
"""Makes one number of the update norms of an epoch."""


@dataclass(frozen=True)
class EffectRow:
    """One number with warmup and without; each is a pair (torch, jax)."""

    what: str
    with_warmup: tuple[float, float]
    without: tuple[float, float]


@dataclass(frozen=True)
class WarmupEffect:
    """Warmup against none: a note on which run is the contrast, the numbers, and what they say."""

    note: str
    rows: tuple[EffectRow, ...]
    sentence: str


def warmup_effect(
    recipe: Recipe, with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]
) -> WarmupEffect:
    """Hold the run with warmup against the one without.

    Args:
        recipe: what was trained: one of the two.
        with_warmup: the traces "torch" and "jax" of the run that has a warmup.
        without: the same of the run that has none.
    """
    span = warmup_span(with_warmup["torch"].recipe)
    if recipe.warmup:
        note = f"The recipe has a warmup of {span}; the contrast is the same recipe without it."
    else:
        note = f"The recipe has no warmup; the contrast is the same recipe with one of {span}."
    length = int(with_warmup["torch"].header["updates_per_epoch"])

    def reduced(traces: Mapping[str, Trace], reduce: Reduction) -> tuple[float, float]:
        torch, jax = (
            np.asarray(traces[backend].series("update_norm")[:length], dtype=np.float64)
            for backend in BACKENDS
        )
        return float(reduce(torch)), float(reduce(jax))

    def updates(what: str, reduce: Reduction) -> EffectRow:
        return EffectRow(what, reduced(with_warmup, reduce), reduced(without, reduce))

    def metric(what: str, key: str, epoch: int) -> EffectRow:
        return EffectRow(what, pair(with_warmup, key, epoch), pair(without, key, epoch))

    rows = (
        updates("size of the first update", lambda norms: norms[0]),
        updates("mean size, first epoch", np.mean),
        updates("largest, first epoch", np.max),
        metric("train loss, epoch 1", "train_loss", 0),
        metric("train loss, end", "train_loss", -1),
        metric("held-out loss, epoch 1", "held_out_loss", 0),
        metric("held-out loss, end", "held_out_loss", -1),
    )
    return WarmupEffect(note, rows, _effect_sentence(rows, with_warmup, without))


def _effect_sentence(
    rows: Sequence[EffectRow], with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]
) -> str:
    if np.array_equal(with_warmup["torch"].series("lr"), without["torch"].series("lr")):
        return (
            "Both runs have the same learning rate at every update, so this warmup changes nothing."
        )
    first = rows[0]
    early, late = rows[5:]
    return (
        f"{first_update(first.with_warmup[0], first.without[0])} "
        f"After epoch 1 the held-out loss {_compared(early)}; at the end it {_compared(late)}."
    )


def first_update(warm: float, cold: float) -> str:
    """A sentence on the sizes of the first update: with warmup and without."""
    if not math.isfinite(warm) or not math.isfinite(cold):
        return f"The first update had size {number(warm)} with warmup and {number(cold)} without."
    if warm == 0:
        return (
            "With warmup the first update left the parameters as they were; without, it had "
            f"size {number(cold)}."
        )
    if abs(cold - warm) <= 0.01 * warm:
        return f"The first update had the same size with warmup as without ({number(warm)})."
    change = f"{ratio(cold, warm)} as large" if cold > warm else f"{ratio(warm, cold)} smaller"
    return f"Without warmup the first update was {change} ({number(cold)} against {number(warm)})."


def _compared(row: EffectRow) -> str:
    """A row's number with warmup against the one without, in words."""
    warm = row.with_warmup[0]
    cold = row.without[0]
    numbers = f"({number(warm)} with, {number(cold)} without)"
    if not math.isfinite(warm) or not math.isfinite(cold):
        which = "only one" if math.isfinite(warm) or math.isfinite(cold) else "neither"
        return f"was a finite number in {which} of the two {numbers}"
    if warm == cold:
        return f"was the same {numbers}"
    word = "lower" if warm < cold else "higher"
    share = abs(warm - cold) / abs(cold) if cold else math.inf
    size = f"{100 * share:.2g} % " if 0 < share < 1 else ""
    return f"was {size}{word} with warmup {numbers}"
