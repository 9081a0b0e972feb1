"""The charts of the HTML report, thinned so that a run of a million updates still opens."""

from collections.abc import Mapping, Sequence
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
"""The most points of a curve, about."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    x: Float64
    y: Float64
    role: str
    """Picks the colour."""
    dashed: bool = False
    """A dashed line can be seen on top of an equal one."""


@dataclass(frozen=True)
class Chart:
    """Curves over one axis."""

    key: str
    """The id in the page."""
    title: str
    caption: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    log: bool = False


def thin(y: NDArray[Any], points: int = POINTS) -> NDArray[np.int64]:
    """The indices of the points to draw: all up to `points`, else the least and the greatest of
    each of points/2 stretches.
    """
    if len(y) <= points:
        return np.arange(len(y))
    edges = np.linspace(0, len(y), points // 2, dtype=np.int64)
    drawn = {0, len(y) - 1}
    for start, stop in pairwise(edges):
        stretch = y[start:stop]
        if np.isnan(stretch).all():
            drawn.add(int(start))
        else:
            drawn |= {int(start + np.nanargmin(stretch)), int(start + np.nanargmax(stretch))}
    return np.array(sorted(drawn))


def build_charts(
    traces: Mapping[str, Trace], with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]
) -> tuple[Chart, ...]:
    """All charts of a report.

    Args:
        traces: "torch", "jax" and "oracle" of the run.
        with_warmup: the traces of the run, or of its contrast, that has a warmup.
        without: the traces of the other.
    """
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
    name: str,
    y: NDArray[Any],
    role: str,
    *,
    x: Sequence[int] | None = None,
    dashed: bool = False,
    first: int = 0,
) -> Curve:
    """A thinned curve over x, or over first, first + 1, ... where there is no x."""
    y = np.asarray(y, dtype=np.float64)
    places = np.asarray(range(first, len(y) + first) if x is None else x, dtype=np.float64)
    drawn = thin(y)
    return Curve(name, places[drawn], y[drawn], role, dashed)


def _thinned(count: int, unit: str = "updates") -> str:
    """The sentence of a caption on thinning; "" where nothing is thinned."""
    if count <= POINTS:
        return ""
    return f" {count} {unit} are thinned to about {POINTS} points a curve; the extremes are kept."


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
    caption = "What each update used, as recorded by the two frameworks."
    caption += _thinned(len(rates["torch"]))
    return Chart(
        "lr", "Learning rate per update", caption, "update", "learning rate", tuple(curves)
    )


def _loss_per_update(traces: Mapping[str, Trace], present: list[str]) -> Chart:
    curves = [
        _curve(name, traces[name].series("loss"), name, dashed=name != "torch") for name in present
    ]
    caption = "Mean loss of each batch, before its update."
    caption += _thinned(len(traces["torch"].series("loss")))
    return Chart("loss", "Loss per update", caption, "update", "batch loss", tuple(curves))


def _per_epoch(traces: Mapping[str, Trace], metric: str, title: str, label: str, key: str) -> Chart:
    curves = []
    for part in ("train", "held_out"):
        for backend in BACKENDS:
            name = f"{backend}, {part.replace('_', '-')}"
            values = traces[backend].metric(f"{part}_{metric}")
            role = f"{backend}-{part}"
            curves.append(_curve(name, values, role, dashed=backend == "jax", first=1))
    epochs = len(traces["torch"].metric("train_loss"))
    caption = "Over all rows of a part, at the end of each epoch." + _thinned(epochs, "epochs")
    return Chart(f"epoch-{key}", title, caption, "epoch", label, tuple(curves))


def _apart(first: NDArray[Any], second: NDArray[Any]) -> Float64:
    """The absolute differences."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))


def _equal(counts: Mapping[str, tuple[int, int]]) -> str:
    """The sentence of a caption on equal values.

    Args:
        counts: name of a curve -> how many of its values are 0, and how many there are.
    """
    equal = [f"{name} at {zeros} of {values}" for name, (zeros, values) in counts.items()]
    return f"Exactly equal, and so not drawn on a logarithmic axis: {'; '.join(equal)}."


def _loss_difference(traces: Mapping[str, Trace], present: list[str]) -> Chart:
    curves = []
    counts = {}
    for first, second in combinations(present, 2):
        label = f"|{first} \u2212 {second}|"
        apart = _apart(traces[first].series("loss"), traces[second].series("loss"))
        curves.append(_curve(label, apart, f"{first}-{second}"))
        counts[label] = (int((apart == 0).sum()), len(apart))
    caption = _equal(counts) + _thinned(len(traces["torch"].series("loss")))
    title = "How far the losses are apart"
    return Chart(
        "loss-difference", title, caption, "update", "|difference|", tuple(curves), log=True
    )


def _parameter_difference(traces: Mapping[str, Trace], present: list[str]) -> Chart:
    curves = []
    counts = {}
    for first, second in combinations(present, 2):
        label = f"|{first} \u2212 {second}|"
        a = traces[first]
        b = traces[second]
        recorded = sorted(set(a.recorded_updates) & set(b.recorded_updates))
        apart = np.array([_parameters_apart(a, b, update) for update in recorded])
        curves.append(_curve(label, apart, f"{first}-{second}", x=recorded))
        counts[label] = (int((apart == 0).sum()), len(apart))
    caption = "The largest difference of any parameter, where parameters were recorded. "
    caption += _equal(counts)
    return Chart(
        "parameter-difference",
        "How far the parameters are apart",
        caption,
        "updates done",
        "|difference|",
        tuple(curves),
        log=True,
    )


def _parameters_apart(first: Trace, second: Trace, update: int) -> float:
    """The largest difference of any parameter after this many updates."""
    a = first.parameters(update)
    b = second.parameters(update)
    return float(np.max([difference(a[name], b[name]) for name in a]))


def _update_size(with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]) -> Chart:
    updates = len(with_warmup["torch"].series("update_norm"))
    curves = (
        _curve("with warmup", with_warmup["torch"].series("update_norm"), "with"),
        _curve("without warmup", without["torch"].series("update_norm"), "without"),
    )
    caption = "2-norm of the change of all parameters (torch)." + _thinned(updates)
    title = "Update size, with and without warmup"
    return Chart("update-size", title, caption, "update", "update size", curves)


def _held_out(with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]) -> Chart:
    curves = (
        _curve("with warmup", with_warmup["torch"].metric("held_out_loss"), "with", first=1),
        _curve("without warmup", without["torch"].metric("held_out_loss"), "without", first=1),
    )
    caption = "Over all held-out rows, at the end of each epoch (torch)."
    title = "Held-out loss, with and without warmup"
    return Chart("warmup-loss", title, caption, "epoch", "held-out loss", curves)
