"""A study of convergence as one HTML page that opens offline, and its curves as a picture."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lockstep.files.outputs import picture
from lockstep.numbers import json_number
from lockstep.recipe import Recipe
from lockstep.report.convergence import (
    Row,
    metric_label,
    power_rows,
    rule,
    sentence,
    summary_of_repeats,
    verdict_row,
    warmup_rows,
)
from lockstep.report.package_versions import measured_with
from lockstep.report.picture import new_figure, png_of
from lockstep.report.run.html import render_page
from lockstep.studies.converge.judge import Judgement, overall
from lockstep.studies.converge.measure import Band, bands
from lockstep.studies.converge.study import Study

__all__ = ["PICTURE", "study_html", "study_png"]

WRITER = "lockstep converge"
PICTURE = picture(WRITER)
COLOURS = {"torch": "#d2491a", "jax": "#2468d8"}
WIDTHS = {"torch": 2.8, "jax": 1.4}
"""Line widths: the wide line of torch, drawn first, shows on both sides of the narrow one."""


@dataclass(frozen=True)
class Panel:
    """Bands over one axis."""

    key: str
    title: str
    caption: str
    x_label: str
    y_label: str
    bands: tuple["NamedBand", ...]


class NamedBand(NamedTuple):
    """A band, and what it belongs to."""

    name: str
    backend: str
    draws: str
    band: Band


def panels(study: Study) -> Iterator[Panel]:
    """The panels: held-out loss and score by epoch, batch loss by update, and the contrast schedule
    beside the recipe's.
    """
    all_bands = {
        set_up: bands(study.recipe, ensemble)
        for set_up, ensemble in study.ensembles.items()
        if set_up[0] in ("own", "contrast")
    }
    caption = (
        f"Lines: medians of {study.seeds} seeds; bands: 5 to 95 % of them. Each framework's "
        "own draws."
    )
    suffixes = {"own": "", "contrast": f", {_contrast(study)}"}

    def bands_of(curve: str, *kinds: str) -> tuple[NamedBand, ...]:
        set_ups = [(draws, backend) for draws in kinds for backend in COLOURS]
        return tuple(
            NamedBand(backend + suffixes[draws], backend, draws, all_bands[draws, backend][curve])
            for draws, backend in set_ups
        )

    loss = bands_of("loss", "own")
    yield Panel("loss", "Held-out loss", caption, "epoch", "held-out loss", loss)
    score = metric_label(study.recipe, "score")
    title = score[0].upper() + score[1:]
    yield Panel("score", title, caption, "epoch", score, bands_of("score", "own"))
    thinned = f"{caption} Of long runs each point is a mean over updates that follow one another."
    yield Panel("batch", "Batch loss", thinned, "update", "batch loss", bands_of("batch", "own"))
    both = bands_of("loss", "own", "contrast")
    yield Panel("warmup", "Warmup against none", caption, "epoch", "held-out loss", both)


def _contrast(study: Study) -> str:
    return "without warmup" if study.recipe.warmup else "with warmup"


def study_html(study: Study, title: str) -> str:
    """The page: verdict, tables, curves with bands, controls and repeats."""
    recipe = study.recipe
    drawn = list(panels(study))
    data: dict[str, Any] = {panel.key: _panel_json(panel) for panel in drawn}
    intervals = [_interval(recipe, judgement) for judgement in (*study.own, *study.paired)]
    controls = []
    for control, judgements in study.controls:
        prefix = f"{control.text}: "
        intervals += [_interval(recipe, judgement, prefix) for judgement in judgements]
        rows = [_with_draws(recipe, judgement) for judgement in judgements]
        controls.append((control.text, rows, overall(judgements)))
    data["intervals"] = intervals
    return render_page(
        "convergence.html",
        data,
        title=title,
        study=study,
        sentence=sentence(study),
        rule=rule(recipe),
        level=100 * (1 - 2 * recipe.convergence.alpha),
        own=[verdict_row(recipe, judgement) for judgement in study.own],
        paired=[verdict_row(recipe, judgement) for judgement in study.paired],
        power=power_rows(study),
        warmup=warmup_rows(study),
        contrast=_contrast(study),
        controls=controls,
        repeats=summary_of_repeats(study) if study.repeats else "",
        panels={panel.key: panel for panel in drawn},
        measured=measured_with(),
    )


def _draws(judgement: Judgement) -> str:
    return "shared draws" if judgement.paired else "own draws"


def _with_draws(recipe: Recipe, judgement: Judgement) -> Row:
    row = verdict_row(recipe, judgement)
    return replace(row, metric=f"{row.metric}, {_draws(judgement)}")


def _panel_json(panel: Panel) -> dict[str, Any]:
    curves = []
    for name, backend, draws, band in panel.bands:
        curve: dict[str, Any] = {"name": name, "backend": backend, "dashed": draws == "contrast"}
        for part in ("x", "low", "median", "high"):
            curve[part] = [json_number(value) for value in getattr(band, part)]
        curves.append(curve)
    return {"x": panel.x_label, "y": panel.y_label, "curves": curves}


def _interval(recipe: Recipe, judgement: Judgement, prefix: str = "") -> dict[str, Any]:
    """A difference and the half width of its interval, in units of the margin."""
    half = (judgement.interval[1] - judgement.interval[0]) / 2
    return {
        "name": f"{prefix}{metric_label(recipe, judgement.metric)}, {_draws(judgement)}",
        "word": judgement.word,
        "at": json_number(judgement.difference / judgement.margin),
        "half": json_number(half / judgement.margin),
    }


def study_png(study: Study) -> bytes:
    """The four panels as one picture.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure = new_figure("--png:", figsize=(10, 6.4), dpi=90)
    for axes, panel in zip(figure.subplots(2, 2).flat, panels(study)):
        for name, backend, draws, band in panel.bands:
            colour = COLOURS[backend]
            style = "--" if draws == "contrast" else "-"
            axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(
                band.x, band.median, style, color=colour, label=name, linewidth=WIDTHS[backend]
            )
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure, WRITER)
