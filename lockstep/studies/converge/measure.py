"""The compared numbers of an ensemble: a value of each metric for each member, and bands of its
curves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.recipe import Recipe
from lockstep.records.ensemble import Ensemble

__all__ = ["METRICS", "Band", "bands", "blown_up", "margins", "measure", "reached", "score_name"]

METRICS = ("loss", "score", "updates")
"""The final held-out loss; the final held-out accuracy, or R2 of a number; the updates to the
target.
"""

QUANTILES = (0.05, 0.5, 0.95)
POINTS = 200

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


def measure(recipe: Recipe, found: Ensemble) -> dict[str, Values]:
    """Metric -> its value for each member (S,).

    The held-out loss is interpolated linearly between the ends of epochs. The updates to the
    target are where this line first reaches the target, after the first epoch at the earliest. A
    member that does not reach it counts with all updates of the run. A member whose loss ends as
    no finite number has NaN for every metric that it did not reach before.
    """
    loss_SE, per_epoch = found.held_out["loss"], found.header["updates_per_epoch"]
    target = recipe.convergence.target
    blown_up_S = ~np.isfinite(loss_SE[:, -1])
    updates_S = np.where(blown_up_S, np.nan, float(found.header["updates"]))
    for s, loss_E in enumerate(loss_SE):
        (below,) = np.nonzero(loss_E <= target)
        if len(below) and below[0] == 0:
            updates_S[s] = per_epoch
        elif len(below):
            before, after = loss_E[below[0] - 1], loss_E[below[0]]
            updates_S[s] = per_epoch * (below[0] + (before - target) / (before - after))
    score_S = np.where(blown_up_S, np.nan, found.held_out[score_name(recipe)][:, -1])
    return {"loss": loss_SE[:, -1], "score": score_S, "updates": updates_S}


def blown_up(found: Ensemble) -> int:
    """How many members' held-out loss ends as no finite number."""
    return int((~np.isfinite(found.held_out["loss"][:, -1])).sum())


def reached(recipe: Recipe, found: Ensemble) -> float:
    """The share of the members that reach the target."""
    return float((found.held_out["loss"] <= recipe.convergence.target).any(axis=1).mean())


def bands(recipe: Recipe, found: Ensemble) -> Mapping[str, Band]:
    """Curves by name: "loss" and "score", held out, by epoch; "batch", the batch loss, by update,
    in means over stretches of updates."""
    curves = {"loss": found.held_out["loss"], "score": found.held_out[score_name(recipe)]}
    x_E = np.arange(1.0, found.held_out["loss"].shape[1] + 1)
    drawn = {name: (x_E, array) for name, array in curves.items()}
    edges = np.unique(np.linspace(0, found.loss_ST.shape[1], POINTS + 1).astype(int))
    means = np.add.reduceat(found.loss_ST.astype(np.float64), edges[:-1], axis=1) / np.diff(edges)
    drawn["batch"] = ((edges[:-1] + edges[1:] - 1) / 2, means)
    return {
        name: Band(x, *np.quantile(array, QUANTILES, axis=0)) for name, (x, array) in drawn.items()
    }
