"""Time per update as one size grows: a table, and a plot in a file."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lockstep.bench.intervals import median_interval, three_digits
from lockstep.bench.results import RESULTS, Measured, Results, machine
from lockstep.bench.run import measure
from lockstep.bench.workloads import Workload
from lockstep.errors import InputError
from lockstep.files.outputs import check_output, page, picture, write_file
from lockstep.report.picture import new_figure, png_of
from lockstep.report.run.html import plotly_script
from lockstep.version import __version__

__all__ = ["SWEEPS", "run_sweep"]

SWEEPS: dict[str, tuple[int, ...]] = {
    "batch": (8, 32, 128, 512),
    "width": (16, 64, 256, 512),
    "depth": (1, 2, 4, 8),
    "updates": (10, 100, 1000),
    "seeds": (1, 4, 16, 64, 256),
}
"""Each size that may grow, and its values: rows of a batch, units of each hidden layer, hidden
layers, epochs, seeds at once.
"""

WRITER = "lockstep bench"
KINDS = {".png": picture(WRITER), ".html": page(WRITER), ".json": RESULTS}

ALONE = ("c", "torch products", "torch fast", "jax products", "jax fast")
TOGETHER = ("c", "torch ensemble", "jax ensemble")

Curve = list[tuple[int, float, float, float]]
"""A size, the median in microseconds, and the interval that holds it."""


def run_sweep(
    workload: Workload,
    what: str,
    *,
    device: str,
    rounds: int,
    out: Path | None,
    console: Console,
    values: Sequence[int] = (),
    contenders: Sequence[str] = (),
) -> int:
    """Measure a workload at every value of one of `SWEEPS`.

    Args:
        workload: what to train.
        what: the size that grows, a name of `SWEEPS`.
        device: "cpu", "gpu" or "auto".
        rounds: how often each contender is timed.
        out: a .png or .html for a plot, or a .json for the samples, if any.
        console: where to print.
        values: sizes in place of those of `SWEEPS`.
        contenders: names in place of the fast engines and the floors.

    Returns:
        the exit status, 0.

    Raises:
        InputError: the file is of another kind, or the recipe does not have such a size.
    """
    if out is not None:
        if out.suffix not in KINDS:
            raise InputError(f"--out {out}: a sweep is written as .png, .html or .json")
        check_output(out, KINDS[out.suffix], option="--out")
    names = contenders or (TOGETHER if what == "seeds" else ALONE)
    by_size = {}
    for value in values or SWEEPS[what]:
        resized = _resize(workload, what, value)
        by_size[value] = measure(resized, names, device=device, rounds=rounds, console=console)
    _print(workload, what, by_size, console)
    if out is not None:
        write_file(out, _content(out, workload, what, by_size), KINDS[out.suffix])
    return 0


def _resize(workload: Workload, what: str, value: int) -> Workload:
    name = f"{workload.name}, {what} {value}"
    if what == "seeds":
        return replace(workload, name=name, seeds=value)
    hidden = list(workload.recipe.model.hidden)
    field, new_value = {
        "batch": ("training.batch", value),
        "width": ("model.hidden", [value] * len(hidden)),
        "depth": ("model.hidden", hidden[:1] * value),
        "updates": ("training.epochs", value),
    }[what]
    return replace(workload, name=name, recipe=workload.recipe.with_values({field: new_value}))


def _print(
    workload: Workload, what: str, by_size: Mapping[int, Measured], console: Console
) -> None:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{workload.name}: {_unit(what)}",
        title_justify="left",
    )
    table.add_column(what, justify="right")
    names = next(iter(by_size.values())).contenders
    for name in names:
        table.add_column(name, justify="right")
    for value, measured in by_size.items():
        cells = [_cell(measured.contenders[name].samples) for name in names]
        table.add_row(str(value), *cells)
    console.print(table)


def _cell(samples: Sequence[float]) -> str:
    """The median in microseconds, and the interval on a line below."""
    if not samples:
        return "-"
    middle, low, high = median_interval([1e6 * sample for sample in samples])
    return f"{three_digits(middle)}\n{three_digits(low)}-{three_digits(high)}"


def _unit(what: str) -> str:
    return "us per update and seed" if what == "seeds" else "us per update"


def _content(out: Path, workload: Workload, what: str, by_size: Mapping[int, Measured]) -> bytes:
    if out.suffix == ".json":
        workloads = {
            f"{workload.name}, {what} {value}": measured for value, measured in by_size.items()
        }
        results = Results(lockstep=__version__, machine=machine(), workloads=workloads)
        return results.model_dump_json(by_alias=True, indent=2).encode()
    curves: dict[str, Curve] = {}
    for value, measured in by_size.items():
        for name, outcome in measured.contenders.items():
            if outcome.samples:
                times = median_interval([1e6 * sample for sample in outcome.samples])
                curves.setdefault(name, []).append((value, *times))
    title = f"{workload.name}: time per update"
    values = sorted({value for curve in curves.values() for value, *_ in curve})
    draw = _png if out.suffix == ".png" else _html
    return draw(title, what, values, curves)


def _png(title: str, what: str, values: Sequence[int], curves: Mapping[str, Curve]) -> bytes:
    figure = new_figure("--out: a .png", figsize=(7, 4.2), dpi=130)
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.subplots()
    for name, curve in curves.items():
        xs, ys, low, high = zip(*curve)
        axes.plot(xs, ys, marker="o", label=name)
        axes.fill_between(xs, low, high, alpha=0.15)
    axes.set(title=title, xlabel=what, ylabel=_unit(what), xscale="log", yscale="log")
    axes.set_xticks(values)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return png_of(figure, WRITER)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="generator" content="lockstep bench"><title>{title}</title>
<script>{plotly}</script></head>
<body><h1>{title}</h1><div id="plot"></div>
<script>
const axis = (title, more) => ({{title: {{text: title}}, type: "log", ...more}});
const axes = {{xaxis: axis({what}, {{tickvals: {values}}}), yaxis: axis({unit}, {{dtick: "D2"}})}};
Plotly.newPlot("plot", {curves}, axes, {{responsive: true}});
</script></body></html>
"""


def _html(title: str, what: str, values: Sequence[int], curves: Mapping[str, Curve]) -> bytes:
    lines = []
    for name, curve in curves.items():
        xs, ys, low, high = zip(*curve)
        above = [abs(end - y) for end, y in zip(high, ys)]
        below = [abs(end - y) for end, y in zip(low, ys)]
        bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
        lines.append({"name": name, "x": xs, "y": ys, "error_y": bars, "mode": "lines+markers"})
    return PAGE.format(
        title=html.escape(title),
        plotly=plotly_script(),
        curves=_json(lines),
        what=_json(what),
        unit=_json(_unit(what)),
        values=_json(values),
    ).encode()


def _json(content: list[dict[str, Any]] | str | Sequence[int]) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(content).replace("<", "\\u003c")
