"""The compared numbers of an ensemble: each member's value of each metric, and bands of curves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.recipe import Recipe
from lockstep.records.ensemble import Ensemble

__all__ = ["METRICS", "Band", "bands", "blown_up", "margins", "measure", "reached", "score_name"]

METRICS = ("loss", "score", "updates")
"""The final held-out loss, the final held-out accuracy (or R2 of a number), and the updates until
the target is reached.
"""

QUANTILES = (0.05, 0.5, 0.95)
POINTS = 200
"""The most points of the curve of batch losses."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A curve over all members: the 5 %, 50 % and 95 % quantiles at each x."""

    x: Values
    low: Values
    median: Values
    high: Values


def score_name(recipe: Recipe) -> str:
    """The name of the metric beside the loss, as `lockstep.records.trace.metrics_of` gives it."""
    return "r2" if recipe.loss.predicts_number else "accuracy"


def margins(recipe: Recipe, *, paired: bool) -> dict[str, float]:
    """Metric -> its declared margin, for own draws or for pairs; 0 if none is declared."""
    kind = "paired_" if paired else ""
    return {
        metric: float(getattr(recipe.convergence, f"{kind}{metric}_margin")) for metric in METRICS
    }


def measure(recipe: Recipe, ensemble: Ensemble) -> dict[str, Values]:
    """Metric -> its value for each member (S,).

    The held-out loss is interpolated linearly between the ends of epochs. The updates to the
    target are where this line first reaches the target, after the first epoch at the earliest. A
    member that does not reach it counts with all updates of the run. A member whose loss ends as
    no finite number has NaN for every metric that it did not reach before.
    """
    loss_SE = ensemble.held_out["loss"]
    per_epoch = ensemble.header["updates_per_epoch"]
    target = recipe.convergence.target
    blown_up_S = ~np.isfinite(loss_SE[:, -1])
    updates_S = np.where(blown_up_S, np.nan, float(ensemble.header["updates"]))
    for s, loss_E in enumerate(loss_SE):
        (reached_E,) = np.nonzero(loss_E <= target)
        if not len(reached_E):
            continue
        epoch = reached_E[0]
        if epoch == 0:
            updates_S[s] = per_epoch
        else:
            before = loss_E[epoch - 1]
            after = loss_E[epoch]
            updates_S[s] = per_epoch * (epoch + (before - target) / (before - after))
    score_S = np.where(blown_up_S, np.nan, ensemble.held_out[score_name(recipe)][:, -1])
    return {"loss": loss_SE[:, -1], "score": score_S, "updates": updates_S}


def blown_up(ensemble: Ensemble) -> int:
    """How many members' held-out loss ends as no finite number."""
    return int((~np.isfinite(ensemble.held_out["loss"][:, -1])).sum())


def reached(recipe: Recipe, ensemble: Ensemble) -> float:
    """The share of the members that reach the target."""
    return float((ensemble.held_out["loss"] <= recipe.convergence.target).any(axis=1).mean())


def bands(recipe: Recipe, ensemble: Ensemble) -> Mapping[str, Band]:
    """The bands of three curves by name.

    "loss" and "score" are held out, by epoch. "batch" is the batch loss by update, in means over
    stretches of updates.
    """
    loss_SE = ensemble.held_out["loss"]
    x_E = np.arange(1.0, loss_SE.shape[1] + 1)
    edges = np.unique(np.linspace(0, ensemble.loss_ST.shape[1], POINTS + 1).astype(int))
    sums = np.add.reduceat(ensemble.loss_ST.astype(np.float64), edges[:-1], axis=1)
    middles = (edges[:-1] + edges[1:] - 1) / 2
    return {
        "loss": _band(x_E, loss_SE),
        "score": _band(x_E, ensemble.held_out[score_name(recipe)]),
        "batch": _band(middles, sums / np.diff(edges)),
    }


def _band(x: Values, curves: Values) -> Band:
    """The band of curves (S, len(x))."""
    return Band(x, *np.quantile(curves, QUANTILES, axis=0))
