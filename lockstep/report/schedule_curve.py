"""Learning-rate curves: a table in the terminal, and a plot or the arrays in a file."""

import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lockstep.backends import BACKENDS
from lockstep.files.outputs import archive, page, picture
from lockstep.numbers import number, percent
from lockstep.printable import printable
from lockstep.report.picture import new_figure, png_of
from lockstep.report.run.charts import thin
from lockstep.report.run.html import plotly_script
from lockstep.schedules.curve import Curve, gap, knobs_of, marked_updates

__all__ = ["KINDS", "print_curves", "render"]

WRITER = "lockstep curve"
KINDS = {
    ".npz": archive(WRITER, ("names", "oracle", *BACKENDS)),
    ".png": picture(WRITER),
    ".html": page(WRITER),
}
"""File name's end -> what is written."""
WIDEST = 120
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#000000")


def print_curves(curves: Sequence[Curve], console: Console) -> None:
    """The knobs that set the curves apart (of one curve all), the rates where something happens,
    and the gaps.
    """
    width = min(console.width, WIDEST)
    letters = _letters(curves)
    console.print(
        Text(
            "Learning-rate curves"
            if len(curves) > 1
            else f"Learning rate: {printable(curves[0].name)}",
            style="bold",
        )
    )
    if len(curves) > 1:
        for letter, curve in letters.items():
            console.print(Text(f"  {letter}  {printable(curve.name)}"), width=width)
    for part in _parts(letters, (width - 14) // 13):  # a name such as inverse_sqrt stays whole
        console.print(_knobs(letters, part), width=width)
    for part in _parts(letters, (width - 25) // 11):
        console.print(_rates(letters, part, width), width=width)
    first, *others = letters.items()
    for other in others:
        console.print(Text(printable(_gap(first, other))), width=width)
    for note in _notes(letters):
        console.print(Text(note), width=width)


def _notes(letters: Mapping[str, Curve]) -> list[str]:
    """Each note once, with the letters of the curves that it is about where there are several."""
    about: dict[str, list[str]] = {}
    for letter, curve in letters.items():
        if curve.note:
            about.setdefault(curve.note, []).append(letter)
    if len(letters) == 1:
        return list(about)
    return [f"{', '.join(named)}: {note}" for note, named in about.items()]


def _letters(curves: Sequence[Curve]) -> dict[str, Curve]:
    if len(curves) == 1:
        return {"rate": curves[0]}
    return dict(zip(ascii_lowercase, curves))


def _parts(letters: Mapping[str, Curve], most: int) -> list[list[str]]:
    """The letters in as few tables as have room for them, of much the same width."""
    tables = -(-len(letters) // max(1, most))
    return [part.tolist() for part in np.array_split(list(letters), tables)]


def _knobs(letters: Mapping[str, Curve], part: Sequence[str]) -> Table:
    knobs = {letter: knobs_of(curve) for letter, curve in letters.items()}
    every = list(dict.fromkeys(knob for having in knobs.values() for knob in having))
    shown = [
        knob for knob in every if len({str(having.get(knob)) for having in knobs.values()}) > 1
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("knob", no_wrap=True)
    for letter in part:
        table.add_column(letter if len(letters) > 1 else "", overflow="fold")
    for knob in shown if len(letters) > 1 else every:
        table.add_row(knob, *(printable(_value(knobs[letter].get(knob))) for letter in part))
    if not table.row_count:
        table.add_row("all the same", *("" for _ in part))
    return table


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rates(letters: Mapping[str, Curve], part: Sequence[str], width: int) -> Table:
    marks = marked_updates(list(letters.values()))
    roomy = len(part) * 12 + 30 <= width
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("update", justify="right", no_wrap=True)
    table.add_column("", min_width=14)
    for letter in part:
        table.add_column(letter, justify="right", no_wrap=True)
    for update, what in marks.items():
        rates = (
            number(float(letters[letter].rates_T[update]), 6 if roomy else 4) for letter in part
        )
        table.add_row(str(update), what, *rates)
    return table


def _gap(first: tuple[str, Curve], other: tuple[str, Curve]) -> str:
    (a, one), (b, two) = first, other
    found, T = gap(one, two), len(one.rates_T)
    if found.first is None or found.largest is None:
        return f"{a} and {b}: the same float32 value at every one of {T} updates."

    def at(update: int) -> str:
        x, y = float(one.rates_T[update]), float(two.rates_T[update])
        share = abs(x - y) / one.recipe.schedule.peak
        return (
            f"at update {update}: {number(x, 6)} and {number(y, 6)}, {100 * share:.3g} % of the "
            "peak"
        )

    return (
        f"{a} and {b}: the same float32 value at {found.same} of {T} updates "
        f"({percent(found.same / T)} %); "
        f"first apart {at(found.first)}; furthest apart {at(found.largest)}."
    )


def render(
    path: Path, curves: Sequence[Curve], applied: Mapping[str, NDArray[np.float32]]
) -> bytes:
    """What goes into the file, by its suffix.

    Args:
        path: a .npz gets the arrays `oracle` (float64), `torch` and `jax` (float32, as applied),
            each (T,), or, of several curves, (curves, T), and `names`; a .png or .html a plot.
        curves: of one length.
        applied: torch and jax -> float32, shape (curves, T); for a .npz.

    Raises:
        InputError: a .png without matplotlib.
    """
    if path.suffix == ".npz":
        return _arrays(curves, applied)
    return _png(curves) if path.suffix == ".png" else _html(curves).encode()


def _arrays(curves: Sequence[Curve], applied: Mapping[str, NDArray[np.float32]]) -> bytes:
    arrays: dict[str, Any] = {"oracle": np.stack([curve.rates_T for curve in curves]), **applied}
    if len(curves) == 1:
        arrays = {name: array[0] for name, array in arrays.items()}
    buffer = io.BytesIO()
    np.savez(buffer, names=np.array([curve.name for curve in curves]), **arrays)
    return buffer.getvalue()


def _png(curves: Sequence[Curve]) -> bytes:
    several = len(curves) > 1
    figure = new_figure("--out: a .png", figsize=(9, 6.5 if several else 4.2), dpi=130)
    axes = figure.subplots(
        2 if several else 1,
        1,
        sharex=True,
        height_ratios=[2, 1] if several else None,
        squeeze=False,
    )
    for i, curve in enumerate(curves):
        colour, style = COLOURS[i % len(COLOURS)], ("-", "--", ":", "-.")[i % 4]
        kept = thin(curve.rates_T)
        axes[0, 0].plot(
            kept, curve.rates_T[kept], style, color=colour, label=curve.name, linewidth=1.8
        )
        if several and i:
            apart = 100 * (curve.rates_T - curves[0].rates_T) / curves[0].recipe.schedule.peak
            kept = thin(apart)
            axes[1, 0].plot(kept, apart[kept], style, color=colour, label=curve.name, linewidth=1.5)
    axes[0, 0].set_ylabel("learning rate")
    axes[0, 0].legend(frameon=False)
    if several:
        axes[1, 0].set_ylabel(f"minus {curves[0].name},\n% of the peak")
        axes[1, 0].axhline(0, color="#999999", linewidth=0.8)
    axes[-1, 0].set_xlabel("update")
    for axis in axes[:, 0]:
        axis.grid(alpha=0.25)
        axis.margins(x=0.01)
        axis.spines[["top", "right"]].set_visible(False)
    return png_of(figure, WRITER)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="lockstep curve"><title>{title}</title>
<style>body{{font:15px system-ui,sans-serif;margin:1.5rem auto;max-width:70rem;padding:0 1rem}}</style>
<script>{plotly}</script></head>
<body><h1>{title}</h1><div id="rates"></div>{gaps}
<script>
const curves = {curves};
const line = (y, i) => ({{name: curves[i].name, x: curves[i][y + "_x"], y: curves[i][y], mode: "lines",
  line: {{color: curves[i].colour, dash: curves[i].dash}}}});
const layout = title => ({{margin: {{t: 20, r: 10}}, xaxis: {{title: {{text: "update"}}}},
  yaxis: {{title: {{text: title}}, exponentformat: "power"}}, legend: {{orientation: "h", y: 1.1}}, showlegend: true}});
Plotly.newPlot("rates", curves.map((_, i) => line("rate", i)), layout("learning rate"), {{responsive: true}});
if (curves.length > 1)
  Plotly.newPlot("apart", curves.map((_, i) => line("apart", i)).slice(1), layout("apart, % of the peak"),
    {{responsive: true}});
</script></body></html>
"""  # noqa: E501


def _html(curves: Sequence[Curve]) -> str:
    drawn = []
    for i, curve in enumerate(curves):
        apart = 100 * (curve.rates_T - curves[0].rates_T) / curves[0].recipe.schedule.peak
        kept, kept_apart = thin(curve.rates_T), thin(apart)
        drawn.append(
            {
                "name": _plain(curve.name),
                "colour": COLOURS[i % len(COLOURS)],
                "dash": ("solid", "dash", "dot", "dashdot")[i % 4],
                "rate_x": kept.tolist(),
                "rate": curve.rates_T[kept].tolist(),
                "apart_x": kept_apart.tolist(),
                "apart": apart[kept_apart].tolist(),
            }
        )
    first, *others = _letters(curves).items()
    gaps = "".join(
        f"<p>{_plain(_gap((first[1].name, first[1]), (o.name, o)))}</p>" for _, o in others
    )
    if others:
        gaps = f"<h2>Apart from {_plain(first[1].name)}</h2><div id='apart'></div>{gaps}"
    gaps += "".join(f"<p>{_plain(note)}</p>" for note in _notes({c.name: c for c in curves}))
    title = _plain(" and ".join(curve.name for curve in curves))
    return PAGE.format(
        title=title,
        plotly=plotly_script(),
        gaps=gaps,
        curves=json.dumps(drawn).replace("<", "\\u003c"),
    )


def _plain(text: str) -> str:
    """Text as HTML that shows it."""
    return html.escape(printable(text))
