"""A study of convergence as one HTML page that opens offline, and its curves as a picture."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

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
"""What is drawn first is seen beside what lies on it."""


@dataclass(frozen=True)
class Panel:
    """Bands over one axis."""

    key: str
    title: str
    caption: str
    x_label: str
    y_label: str
    bands: tuple[tuple[str, str, str, Band], ...]
    """Name, backend, set-up, band."""


def panels(study: Study) -> Iterator[Panel]:
    """Held-out loss and score by epoch, batch loss by update, and the contrast schedule beside the
    recipe's.
    """
    found = {
        key: bands(study.recipe, e)
        for key, e in study.ensembles.items()
        if key[0] in ("own", "contrast")
    }
    shown = (
        f"Lines: medians of {study.seeds} seeds; bands: 5 to 95 % of them. Each framework's "
        "own draws."
    )

    def of(curve: str, *setups: str) -> tuple[tuple[str, str, str, Band], ...]:
        names = {"own": "", "contrast": f", {_contrast(study)}"}
        pairs = [(setup, backend) for setup in setups for backend in COLOURS]
        return tuple(
            (backend + names[setup], backend, setup, found[setup, backend][curve])
            for setup, backend in pairs
        )

    score = metric_label(study.recipe, "score")
    yield Panel("loss", "Held-out loss", shown, "epoch", "held-out loss", of("loss", "own"))
    yield Panel("score", score[0].upper() + score[1:], shown, "epoch", score, of("score", "own"))
    thinned = f"{shown} Of long runs each point is a mean over updates that follow one another."
    yield Panel("batch", "Batch loss", thinned, "update", "batch loss", of("batch", "own"))
    yield Panel(
        "warmup",
        "Warmup against none",
        shown,
        "epoch",
        "held-out loss",
        of("loss", "own", "contrast"),
    )


def _contrast(study: Study) -> str:
    return "without warmup" if study.recipe.warmup else "with warmup"


def study_html(study: Study, title: str) -> str:
    """The page: verdict, tables, curves with bands, controls and repeats."""
    recipe, drawn = study.recipe, list(panels(study))
    data: dict[str, Any] = {panel.key: _panel_json(panel) for panel in drawn}
    data["intervals"] = [
        *(_interval(recipe, j) for j in (*study.own, *study.paired)),
        *(_interval(recipe, j, f"{c.text}: ") for c, js in study.controls for j in js),
    ]
    return render_page(
        "convergence.html",
        data,
        title=title,
        study=study,
        sentence=sentence(study),
        rule=rule(recipe),
        level=100 * (1 - 2 * recipe.convergence.alpha),
        own=[verdict_row(recipe, j) for j in study.own],
        paired=[verdict_row(recipe, j) for j in study.paired],
        power=power_rows(study),
        warmup=warmup_rows(study),
        contrast=_contrast(study),
        controls=[
            (c.text, [_with_draws(recipe, j) for j in js], overall(js)) for c, js in study.controls
        ],
        repeats=summary_of_repeats(study) if study.repeats else "",
        panels={panel.key: panel for panel in drawn},
        measured=measured_with(),
    )


def _with_draws(recipe: Recipe, found: Judgement) -> Row:
    row = verdict_row(recipe, found)
    return replace(row, metric=f"{row.metric}, {'shared' if found.paired else 'own'} draws")


def _panel_json(panel: Panel) -> dict[str, Any]:
    curves = [
        {
            "name": name,
            "backend": backend,
            "dashed": setup == "contrast",
            **{
                part: [json_number(value) for value in getattr(band, part)]
                for part in ("x", "low", "median", "high")
            },
        }
        for name, backend, setup, band in panel.bands
    ]
    return {"x": panel.x_label, "y": panel.y_label, "curves": curves}


def _interval(recipe: Recipe, found: Judgement, control: str = "") -> dict[str, Any]:
    """A difference and its interval in units of the margin."""
    half = (found.interval[1] - found.interval[0]) / 2
    return {
        "name": f"{control}{metric_label(recipe, found.metric)}, "
        f"{'shared' if found.paired else 'own'} draws",
        "word": found.word,
        "at": json_number(found.difference / found.margin),
        "half": json_number(half / found.margin),
    }


def study_png(study: Study) -> bytes:
    """The four panels as one picture.

    Raises:
        InputError: without matplotlib.
    """
    figure = new_figure("--png:", figsize=(10, 6.4), dpi=90)
    for axes, panel in zip(figure.subplots(2, 2).flat, panels(study)):
        for name, backend, setup, band in panel.bands:
            colour, style = COLOURS[backend], "--" if setup == "contrast" else "-"
            axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(
                band.x, band.median, style, color=colour, label=name, linewidth=WIDTHS[backend]
            )
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure, WRITER)
