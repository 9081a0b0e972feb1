"""The table of epochs: each one's numbers in both frameworks, and a few words on what happens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.backends import BACKENDS
from lockstep.numbers import difference
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace, metric_names
from lockstep.report.run.targets import score_of

__all__ = ["EpochRow", "epoch_rates", "epoch_rows", "pair", "rates_by_epoch", "select_rows"]


@dataclass(frozen=True)
class EpochRow:
    """One epoch; each metric is a pair (torch, jax), and a score is the accuracy or R^2."""

    epoch: int
    """Counted from 1."""
    lr: float
    """The learning rate of the last update."""
    train_loss: tuple[float, float]
    train_score: tuple[float, float]
    held_out_loss: tuple[float, float]
    held_out_score: tuple[float, float]
    difference: float
    """The largest difference between the frameworks, over the metrics."""
    observation: str


def epoch_rows(recipe: Recipe, traces: Mapping[str, Trace]) -> tuple[EpochRow, ...]:
    """A row for each epoch.

    Args:
        recipe: what was trained.
        traces: the traces "torch" and "jax" of it.
    """
    rates = epoch_rates(traces["torch"])
    observations = _observations(recipe, traces)
    score = score_of(recipe.loss).key
    rows = []
    for epoch, (rate, observation) in enumerate(zip(rates, observations)):
        pairs = {metric: pair(traces, metric, epoch) for metric in metric_names(recipe.loss)}
        row = EpochRow(
            epoch=epoch + 1,
            lr=float(rate),
            train_loss=pairs["train_loss"],
            train_score=pairs[f"train_{score}"],
            held_out_loss=pairs["held_out_loss"],
            held_out_score=pairs[f"held_out_{score}"],
            difference=difference(*zip(*pairs.values())),
            observation=observation,
        )
        rows.append(row)
    return tuple(rows)


def select_rows(rows: Sequence[EpochRow], limit: int) -> list[EpochRow]:
    """At most `limit` epochs: the first and last ones, some where the observation changes, and some
    evenly between.
    """
    if len(rows) <= limit:
        return list(rows)
    chosen = {0, 1, 2, len(rows) - 2, len(rows) - 1}
    turns = [i for i in range(1, len(rows)) if rows[i].observation != rows[i - 1].observation]
    chosen.update(turns[: limit // 3])
    spread = np.linspace(0, len(rows) - 1, max(limit - len(chosen), 2), dtype=int)
    chosen.update(spread.tolist())
    return [rows[i] for i in sorted(chosen)[:limit]]


def pair(traces: Mapping[str, Trace], metric: str, epoch: int) -> tuple[float, float]:
    """A metric of torch and of jax after an epoch, counted from 0."""
    torch, jax = (float(traces[backend].metric(metric)[epoch]) for backend in BACKENDS)
    return torch, jax


def rates_by_epoch(trace: Trace) -> NDArray[Any]:
    """The learning rate of every update, of shape (epochs, updates in an epoch)."""
    rates = np.asarray(trace.series("lr"))
    return rates.reshape(-1, int(trace.header["updates_per_epoch"]))


def _observations(recipe: Recipe, traces: Mapping[str, Trace]) -> list[str]:
    """A few words for each epoch (at most 12 characters), from the numbers alone."""
    rates_ET = rates_by_epoch(traces["torch"])
    epochs, length = rates_ET.shape
    peak = _peak_update(recipe, rates_ET)
    before = float(traces["torch"].series("loss")[0])
    best = math.inf
    observations = []
    for epoch in range(epochs):
        train_pair = pair(traces, "train_loss", epoch)
        held_out_pair = pair(traces, "held_out_loss", epoch)
        train = train_pair[0]
        held_out = held_out_pair[0]
        losses = [*train_pair, *held_out_pair]
        if not np.isfinite(losses).all():
            words = "not a number" if np.isnan(losses).any() else "infinite"
        elif peak >= (epoch + 1) * length:
            words = "warming up"
        elif peak >= epoch * length and peak > 0:
            words = "peak reached"
        else:
            words = _course(train, before, held_out, best)
        observations.append(words)
        before = train
        best = min(best, held_out)
    return observations


def _course(train: float, before: float, held_out: float, best: float) -> str:
    """How the loss goes on: the training loss against the one before it, and the held-out loss
    against the best so far.
    """
    if train > 1.01 * before:
        return "loss rises"
    if held_out > 1.01 * best and train < before:
        return "overfitting"
    return "converging" if train < 0.99 * before else "steady"


def _peak_update(recipe: Recipe, rates_ET: NDArray[Any]) -> int:
    """The update at which the rate reaches its peak; how many updates there are, if it still rises
    in the last epoch.
    """
    at_peak = np.flatnonzero(rates_ET.ravel() >= recipe.schedule.peak * (1 - 1e-6))
    if len(at_peak):
        return int(at_peak[0])
    largest = int(rates_ET.argmax())
    in_last_epoch = largest >= rates_ET.size - rates_ET.shape[1]
    return rates_ET.size if in_last_epoch else largest


def epoch_rates(trace: Trace) -> NDArray[Any]:
    """The learning rate of each epoch's last update, of shape (epochs,)."""
    return rates_by_epoch(trace)[:, -1]
