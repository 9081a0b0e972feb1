"""The table of epochs: each one's numbers in both frameworks, and a few words on what happens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.numbers import difference
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace, metric_names
from lockstep.report.run.targets import (
    score_of,
)

__all__ = ["EpochRow", "epoch_rates", "epoch_rows", "pair", "rates_by_epoch", "select_rows"]


@dataclass(frozen=True)
class EpochRow:
    """One epoch; each metric is a pair (torch, jax). `lr` is that of the epoch's last update, a
    score the accuracy or R^2."""

    epoch: int
    lr: float
    train_loss: tuple[float, float]
    train_score: tuple[float, float]
    held_out_loss: tuple[float, float]
    held_out_score: tuple[float, float]
    difference: float
    observation: str


def epoch_rows(recipe: Recipe, traces: Mapping[str, Trace]) -> tuple[EpochRow, ...]:
    """A row for each epoch.

    Args:
        recipe: what was trained.
        traces: "torch" and "jax" of it.
    """
    rates = epoch_rates(traces["torch"])
    observations, score = _observations(recipe, traces), score_of(recipe.loss).key
    rows = []
    for epoch, (rate, observation) in enumerate(zip(rates, observations)):
        pairs = {metric: pair(traces, metric, epoch) for metric in metric_names(recipe.loss)}
        apart = difference(
            [pair[0] for pair in pairs.values()], [pair[1] for pair in pairs.values()]
        )
        train, held_out = (
            (pairs[f"{part}_loss"], pairs[f"{part}_{score}"]) for part in ("train", "held_out")
        )
        rows.append(
            EpochRow(
                epoch + 1, float(rate), *train, *held_out, difference=apart, observation=observation
            )
        )
    return tuple(rows)


def select_rows(rows: Sequence[EpochRow], limit: int) -> list[EpochRow]:
    """At most `limit` epochs: the first and last, those where something happens, and some evenly
    between.
    """
    if len(rows) <= limit:
        return list(rows)
    kept = {0, 1, 2, len(rows) - 2, len(rows) - 1}
    turns = [i for i in range(1, len(rows)) if rows[i].observation != rows[i - 1].observation]
    kept |= set(turns[: limit // 3])
    spread = np.linspace(0, len(rows) - 1, max(limit - len(kept), 2), dtype=int)
    kept |= {int(i) for i in spread}
    return [rows[i] for i in sorted(kept)[:limit]]


def pair(traces: Mapping[str, Trace], metric: str, epoch: int) -> tuple[float, float]:
    """A metric after an epoch, counted from 0, in PyTorch and in JAX."""
    return float(traces["torch"].metric(metric)[epoch]), float(traces["jax"].metric(metric)[epoch])


def rates_by_epoch(trace: Trace) -> NDArray[Any]:
    """The learning rate of every update, of shape (epochs, updates in an epoch)."""
    rates = np.asarray(trace.series("lr"))
    return rates.reshape(-1, int(trace.header["updates_per_epoch"]))


def _observations(recipe: Recipe, traces: Mapping[str, Trace]) -> list[str]:
    """A few words an epoch (at most 12 characters), from the numbers alone."""
    rates_ET = rates_by_epoch(traces["torch"])
    at_peak = np.flatnonzero(rates_ET.ravel() >= recipe.schedule.peak * (1 - 1e-6))
    peak = int(at_peak[0]) if len(at_peak) else int(rates_ET.argmax())
    if not len(at_peak) and peak >= rates_ET.size - rates_ET.shape[1]:
        peak = rates_ET.size  # still rising at the end
    start, stop = (
        np.arange(len(rates_ET)) * rates_ET.shape[1],
        (np.arange(len(rates_ET)) + 1) * rates_ET.shape[1],
    )
    losses = np.array(
        [
            [*pair(traces, "train_loss", e), *pair(traces, "held_out_loss", e)]
            for e in range(len(start))
        ]
    )
    before, best = float(traces["torch"].series("loss")[0]), math.inf
    observations = []
    for epoch, row in enumerate(losses):
        train, held_out = float(row[0]), float(row[2])
        if np.isnan(row).any():
            words = "not a number"
        elif np.isinf(row).any():
            words = "infinite"
        elif peak >= stop[epoch]:
            words = "warming up"
        elif peak >= start[epoch] and peak > 0:
            words = "peak reached"
        elif train > 1.01 * before:
            words = "loss rises"
        elif held_out > 1.01 * best and train < before:
            words = "overfitting"
        else:
            words = "converging" if train < 0.99 * before else "steady"
        observations.append(words)
        before, best = train, min(best, held_out)
    return observations


def epoch_rates(trace: Trace) -> NDArray[Any]:
    """The learning rate of each epoch's last update, of shape (epochs,)."""
    return rates_by_epoch(trace)[:, -1]
