"""Learning-rate curves: a table in the terminal, and a plot or the arrays in a file."""

import html
import io
import json
from collections.abc import Mapping, Sequence
from itertools import chain
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
"""End of the file name -> the kind of file."""
WIDEST = 120
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#000000")


def print_curves(curves: Sequence[Curve], console: Console) -> None:
    """Print the knobs that set the curves apart (all knobs of a single curve), the rates where
    something happens, and the gaps.
    """
    width = min(console.width, WIDEST)
    letters = _letters(curves)
    title = "Learning-rate curves"
    if len(curves) == 1:
        title = f"Learning rate: {printable(curves[0].name)}"
    console.print(Text(title, style="bold"))
    if len(curves) > 1:
        for letter, curve in letters.items():
            console.print(Text(f"  {letter}  {printable(curve.name)}"), width=width)
    for part in _parts(letters, (width - 14) // 13):  # room for a name such as inverse_sqrt
        console.print(_knobs(letters, part), width=width)
    for part in _parts(letters, (width - 25) // 11):
        console.print(_rates(letters, part, width), width=width)
    (first_letter, first), *others = letters.items()
    for letter, curve in others:
        text = _gap(first_letter, first, letter, curve)
        console.print(Text(printable(text)), width=width)
    for note in _notes(letters):
        console.print(Text(note), width=width)


def _notes(letters: Mapping[str, Curve]) -> list[str]:
    """Each note once; where there are several curves, with the letters of those it is about."""
    curves_of: dict[str, list[str]] = {}
    for letter, curve in letters.items():
        if curve.note:
            curves_of.setdefault(curve.note, []).append(letter)
    if len(letters) == 1:
        return list(curves_of)
    return [f"{', '.join(names)}: {note}" for note, names in curves_of.items()]


def _letters(curves: Sequence[Curve]) -> dict[str, Curve]:
    if len(curves) == 1:
        return {"rate": curves[0]}
    return dict(zip(ascii_lowercase, curves))


def _parts(letters: Mapping[str, Curve], most: int) -> list[list[str]]:
    """The letters for each table, in as few tables as have room, of about the same width."""
    tables = -(-len(letters) // max(1, most))
    return [part.tolist() for part in np.array_split(list(letters), tables)]


def _knobs(letters: Mapping[str, Curve], part: Sequence[str]) -> Table:
    values = {letter: knobs_of(curve) for letter, curve in letters.items()}
    knobs = list(dict.fromkeys(chain.from_iterable(values.values())))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("knob", no_wrap=True)
    for letter in part:
        table.add_column(letter if len(letters) > 1 else "", overflow="fold")
    for knob in knobs:
        differs = len({str(of_curve.get(knob)) for of_curve in values.values()}) > 1
        if differs or len(letters) == 1:
            table.add_row(knob, *(printable(_value(values[letter].get(knob))) for letter in part))
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
    digits = 6 if roomy else 4
    for update, what in marks.items():
        rates = [number(float(letters[letter].rates_T[update]), digits) for letter in part]
        table.add_row(str(update), what, *rates)
    return table


def _gap(name: str, curve: Curve, other_name: str, other: Curve) -> str:
    """A sentence on how far two curves are apart."""
    T = len(curve.rates_T)
    apart = gap(curve, other)
    if apart.first is None or apart.largest is None:
        return f"{name} and {other_name}: the same float32 value at every one of {T} updates."

    def at(update: int) -> str:
        rate = float(curve.rates_T[update])
        other_rate = float(other.rates_T[update])
        share = 100 * (abs(rate - other_rate) / curve.recipe.schedule.peak)
        rates = f"{number(rate, 6)} and {number(other_rate, 6)}"
        return f"at update {update}: {rates}, {share:.3g} % of the peak"

    return (
        f"{name} and {other_name}: the same float32 value at {apart.same} of {T} updates "
        f"({percent(apart.same / T)} %); first apart {at(apart.first)}; "
        f"furthest apart {at(apart.largest)}."
    )


def render(
    path: Path, curves: Sequence[Curve], applied: Mapping[str, NDArray[np.float32]]
) -> bytes:
    """The content of a file, by its suffix.

    Args:
        path: a .png or .html gets a plot. A .npz gets `names` and the arrays `oracle` (float64),
            `torch` and `jax` (float32, as applied); each is (T,), or (curves, T) where there are
            several curves.
        curves: the curves, all of one length.
        applied: torch and jax -> the rates that it applies, float32 (curves, T), for a .npz.

    Raises:
        InputError: a .png is asked for, and matplotlib is not installed.
    """
    if path.suffix == ".npz":
        return _arrays(curves, applied)
    if path.suffix == ".png":
        return _png(curves)
    return _html(curves).encode()


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
    heights = [2, 1] if several else [1]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
    for i, curve in enumerate(curves):
        style = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": ("-", "--", ":", "-.")[i % 4],
            "label": curve.name,
        }
        drawn = thin(curve.rates_T)
        axes[0, 0].plot(drawn, curve.rates_T[drawn], linewidth=1.8, **style)
        if several and i:
            apart = _percent_apart(curve, curves[0])
            drawn = thin(apart)
            axes[1, 0].plot(drawn, apart[drawn], linewidth=1.5, **style)
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


def _percent_apart(curve: Curve, first: Curve) -> NDArray[np.float64]:
    """A curve's rates less those of the first, in per cent of the first one's peak."""
    return 100 * (curve.rates_T - first.rates_T) / first.recipe.schedule.peak


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="generator" content="lockstep curve"><title>{title}</title>
<style>
body{{font:15px system-ui,sans-serif;margin:1.5rem auto;max-width:70rem;padding:0 1rem}}
</style>
<script>{plotly}</script></head>
<body><h1>{title}</h1><div id="rates"></div>{gaps}
<script>
const curves = {curves};
const line = (y, i) => ({{name: curves[i].name, x: curves[i][y + "_x"], y: curves[i][y],
  mode: "lines", line: {{color: curves[i].colour, dash: curves[i].dash}}}});
const layout = title => ({{margin: {{t: 20, r: 10}}, xaxis: {{title: {{text: "update"}}}},
  yaxis: {{title: {{text: title}}, exponentformat: "power"}},
  legend: {{orientation: "h", y: 1.1}}, showlegend: true}});
Plotly.newPlot("rates", curves.map((_, i) => line("rate", i)), layout("learning rate"),
  {{responsive: true}});
if (curves.length > 1)
  Plotly.newPlot("apart", curves.map((_, i) => line("apart", i)).slice(1),
    layout("apart, % of the peak"), {{responsive: true}});
</script></body></html>
"""


def _html(curves: Sequence[Curve]) -> str:
    lines = []
    for i, curve in enumerate(curves):
        apart = _percent_apart(curve, curves[0])
        drawn = thin(curve.rates_T)
        drawn_apart = thin(apart)
        lines.append(
            {
                "name": _plain(curve.name),
                "colour": COLOURS[i % len(COLOURS)],
                "dash": ("solid", "dash", "dot", "dashdot")[i % 4],
                "rate_x": drawn.tolist(),
                "rate": curve.rates_T[drawn].tolist(),
                "apart_x": drawn_apart.tolist(),
                "apart": apart[drawn_apart].tolist(),
            }
        )
    first, *others = curves
    gaps = ""
    if others:
        texts = [_gap(first.name, first, other.name, other) for other in others]
        paragraphs = "".join(f"<p>{_plain(text)}</p>" for text in texts)
        gaps = f"<h2>Apart from {_plain(first.name)}</h2><div id='apart'></div>{paragraphs}"
    by_name = {curve.name: curve for curve in curves}
    gaps += "".join(f"<p>{_plain(note)}</p>" for note in _notes(by_name))
    return PAGE.format(
        title=_plain(" and ".join(curve.name for curve in curves)),
        plotly=plotly_script(),
        gaps=gaps,
        curves=json.dumps(lines).replace("<", "\\u003c"),
    )


def _plain(text: str) -> str:
    """The text, escaped for HTML."""
    return html.escape(printable(text))
