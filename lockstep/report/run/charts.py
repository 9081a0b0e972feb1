"""The curves of the HTML report, thinned so that a run of a million updates still opens."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.backends import BACKENDS
from lockstep.numbers import difference
from lockstep.records.trace import Trace
from lockstep.report.run.targets import score_of

__all__ = ["Chart", "Curve", "build_charts", "thin"]

POINTS = 2000

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One line of a chart; `dashed` lets it be seen on top of an equal one, `role` picks its
    colour.
    """

    name: str
    x: Float64
    y: Float64
    role: str
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over one axis; `key` is its id in the page."""

    key: str
    title: str
    caption: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    log: bool = False


def thin(y: NDArray[Any], points: int = POINTS) -> NDArray[np.int64]:
    """Which points to draw: all up to `points`, else the least and the greatest of each of points/2
    stretches.
    """
    if len(y) <= points:
        return np.arange(len(y))
    edges = np.linspace(0, len(y), points // 2, dtype=np.int64)
    kept = {0, len(y) - 1}
    for start, stop in pairwise(edges):
        stretch = y[start:stop]
        if np.isnan(stretch).all():
            kept.add(int(start))
        else:
            kept |= {int(start + np.nanargmin(stretch)), int(start + np.nanargmax(stretch))}
    return np.array(sorted(kept))


def build_charts(
    traces: Mapping[str, Trace], with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]
) -> tuple[Chart, ...]:
    """All charts, from the run's traces and from the pair of runs with and without warmup."""
    present = [backend for backend in (*BACKENDS, "oracle") if backend in traces]
    score = score_of(traces["torch"].recipe.loss)
    return (
        _lr(traces, with_warmup, without),
        _loss_per_update(traces, present),
        _per_epoch(traces, "loss", "Loss per epoch", "mean loss", "loss"),
        _per_epoch(traces, score.key, score.title, score.axis, "score"),
        _loss_difference(traces, present),
        _parameter_difference(traces, present),
        _update_size(with_warmup, without),
        _held_out(with_warmup, without),
    )


def _curve(
    name: str, y: NDArray[Any], role: str, *, x: Any = None, dashed: bool = False, first: int = 0
) -> Curve:
    y = np.asarray(y, dtype=np.float64)
    x = (
        np.arange(first, len(y) + first, dtype=np.float64)
        if x is None
        else np.asarray(x, dtype=np.float64)
    )
    kept = thin(y)
    return Curve(name, x[kept], y[kept], role, dashed)


def _thinned(updates: int) -> str:
    if updates <= POINTS:
        return ""
    return (
        f" {updates} updates are thinned to about {POINTS} points a curve; the extremes are kept."
    )


def _lr(
    traces: Mapping[str, Trace], with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]
) -> Chart:
    other = without if traces is with_warmup else with_warmup
    label = "contrast, without warmup" if other is without else "contrast, with warmup"
    rates = {backend: traces[backend].series("lr") for backend in BACKENDS}
    curves = [
        _curve("torch", rates["torch"], "torch"),
        _curve("jax", rates["jax"], "jax", dashed=True),
        _curve(label, other["torch"].series("lr"), "contrast", dashed=True),
    ]
    caption = "What each update used, as recorded by the two frameworks." + _thinned(
        len(rates["torch"])
    )
    return Chart(
        "lr", "Learning rate per update", caption, "update", "learning rate", tuple(curves)
    )


def _loss_per_update(traces: Mapping[str, Trace], present: list[str]) -> Chart:
    curves = [
        _curve(name, traces[name].series("loss"), name, dashed=name != "torch") for name in present
    ]
    caption = "Mean loss of each batch, before its update." + _thinned(
        len(traces["torch"].series("loss"))
    )
    return Chart("loss", "Loss per update", caption, "update", "batch loss", tuple(curves))


def _per_epoch(traces: Mapping[str, Trace], metric: str, title: str, label: str, key: str) -> Chart:
    curves = [
        _curve(
            f"{backend}, {part.replace('_', '-')}",
            traces[backend].metric(f"{part}_{metric}"),
            f"{backend}-{part}",
            dashed=backend == "jax",
            first=1,
        )
        for part in ("train", "held_out")
        for backend in BACKENDS
    ]
    epochs = len(traces["torch"].metric("train_loss"))
    caption = "Over all rows of a part, at the end of each epoch."
    if epochs > POINTS:
        caption += (
            f" {epochs} epochs are thinned to about {POINTS} points a curve; the extremes are kept."
        )
    return Chart(f"epoch-{key}", title, caption, "epoch", label, tuple(curves))


def _apart(first: NDArray[Any], second: NDArray[Any]) -> Float64:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))


def _equal(curves: list[Curve], counts: dict[str, tuple[int, int]]) -> str:
    equal = [
        f"{curve.name} at {counts[curve.name][0]} of {counts[curve.name][1]}" for curve in curves
    ]
    return f"Exactly equal, and so not drawn on a logarithmic axis: {'; '.join(equal)}."


def _loss_difference(traces: Mapping[str, Trace], present: list[str]) -> Chart:
    curves, counts = [], {}
    for first, second in combinations(present, 2):
        label = f"|{first} \u2212 {second}|"
        apart = _apart(traces[first].series("loss"), traces[second].series("loss"))
        curves.append(_curve(label, apart, f"{first}-{second}"))
        counts[label] = (int((apart == 0).sum()), len(apart))
    caption = _equal(curves, counts) + _thinned(len(traces["torch"].series("loss")))
    return Chart(
        "loss-difference",
        "How far the losses are apart",
        caption,
        "update",
        "|difference|",
        tuple(curves),
        True,
    )


def _parameter_difference(traces: Mapping[str, Trace], present: list[str]) -> Chart:
    curves, counts = [], {}
    for first, second in combinations(present, 2):
        label = f"|{first} \u2212 {second}|"
        recorded = sorted(
            set(traces[first].recorded_updates) & set(traces[second].recorded_updates)
        )
        apart = np.array(
            [_parameters_apart(traces[first], traces[second], update) for update in recorded]
        )
        curves.append(_curve(label, apart, f"{first}-{second}", x=recorded))
        counts[label] = (int((apart == 0).sum()), len(apart))
    caption = "The largest difference of any parameter, where parameters were recorded. " + _equal(
        curves, counts
    )
    title = "How far the parameters are apart"
    return Chart(
        "parameter-difference", title, caption, "updates done", "|difference|", tuple(curves), True
    )


def _parameters_apart(first: Trace, second: Trace, update: int) -> float:
    a, b = first.parameters(update), second.parameters(update)
    return float(np.max([difference(a[name], b[name]) for name in a]))


def _update_size(with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]) -> Chart:
    updates = len(with_warmup["torch"].series("update_norm"))
    curves = (
        _curve("with warmup", with_warmup["torch"].series("update_norm"), "with"),
        _curve("without warmup", without["torch"].series("update_norm"), "without"),
    )
    caption = "2-norm of the change of all parameters (torch)." + _thinned(updates)
    return Chart(
        "update-size",
        "Update size, with and without warmup",
        caption,
        "update",
        "update size",
        curves,
    )


def _held_out(with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]) -> Chart:
    curves = (
        _curve("with warmup", with_warmup["torch"].metric("held_out_loss"), "with", first=1),
        _curve("without warmup", without["torch"].metric("held_out_loss"), "without", first=1),
    )
    caption = "Over all held-out rows, at the end of each epoch (torch)."
    return Chart(
        "warmup-loss",
        "Held-out loss, with and without warmup",
        caption,
        "epoch",
        "held-out loss",
        curves,
    )
