"""The report as one HTML file that opens offline."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2

from lockstep.numbers import json_number, number, several, short
from lockstep.printable import LAYOUT, printable
from lockstep.report.run.charts import Chart
from lockstep.report.run.epochs import select_rows
from lockstep.report.run.story import Story

__all__ = ["plotly_script", "render_html", "render_page"]

EPOCHS = 200
LAYERS = 40


def render_html(story: Story) -> str:
    """The whole page, with its scripts and styles; it loads nothing from elsewhere."""
    rows = select_rows(story.training, EPOCHS)
    layers = story.prediction.layers
    hidden_layers = max(len(layers) - LAYERS, 0)
    if hidden_layers:
        layers = (*layers[: LAYERS - 2], *layers[-2:])
    return render_page(
        "template.html",
        {chart.key: _chart_json(chart) for chart in story.charts},
        story=story,
        rows=rows,
        layers=layers,
        hidden_layers=hidden_layers,
        charts={chart.key: chart for chart in story.charts},
    )


def render_page(template: str, chart_data: Mapping[str, Any], **content: Any) -> str:
    """A page from a template of `lockstep.report`.

    Args:
        template: the name of its file.
        chart_data: key of a chart -> what the page's script draws.
        content: what the template names.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_escaped
    )
    environment.filters |= {"number": number, "several": several, "short": short}
    return environment.from_string(_source(template)).render(
        **content,
        style=_source("style.css"),
        chart_json=_embedded(chart_data),
        plotly=plotly_script(),
    )


def _escaped(value: Any) -> Any:
    """A value for a template, escaped where it does not print.

    Markup that the template calls safe, such as a script, stays as it is.
    """
    return printable(value, LAYOUT) if type(value) is str else value


def _source(name: str) -> str:
    return files("lockstep.report").joinpath(name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """Plotly's script, which may stand inside a script element."""
    # only the file is read, because `import plotly.graph_objects` takes seconds
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return script.replace("</script", "<\\/script")


def _chart_json(chart: Chart) -> dict[str, Any]:
    """A chart for the page's script; on a logarithmic axis a 0 is None."""
    curves = []
    for curve in chart.curves:
        y = [None if chart.log and value == 0 else json_number(value) for value in curve.y]
        curves.append(
            {
                "name": curve.name,
                "role": curve.role,
                "dashed": curve.dashed,
                "x": [json_number(value) for value in curve.x],
                "y": y,
            }
        )
    return {
        "title": chart.title,
        "x": chart.x_label,
        "y": chart.y_label,
        "log": chart.log,
        "curves": curves,
    }


def _embedded(content: Any) -> str:
    """JSON that may stand inside a script element, whatever its strings hold."""
    content = _printable_strings(content)
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _printable_strings(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _printable_strings(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_printable_strings(value) for value in content]
    return _escaped(content)
