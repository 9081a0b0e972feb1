"""The report in the terminal: tables and a chart of the loss. Other outputs get plain text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotext
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lockstep.numbers import number, several, short
from lockstep.report.run.charts import Curve
from lockstep.report.run.epochs import EpochRow, select_rows
from lockstep.report.run.prediction import Prediction
from lockstep.report.run.quiz import Question
from lockstep.report.run.stage import Stage
from lockstep.report.run.story import Story
from lockstep.report.run.targets import Score
from lockstep.report.run.warmup_effect import WarmupEffect

__all__ = ["print_story"]

EPOCHS = 40
LAYERS = 12
WIDEST = 120
COLOURS = {"identical": "green", "rounding": "green", "diverged": "red", "inconclusive": "yellow"}
OUTCOMES = {
    "pass": ("pass", "green"),
    "inconclusive": ("open", "bold yellow"),
    "fail": ("FAIL", "bold red"),
}
LARGEST_DRAWN = 1e30
"""The chart leaves out a loss beyond this."""
LOOKS = {
    "torch": ("braille", 12),
    "torch-train": ("braille", 12),
    "torch-held_out": ("braille", 10),
    "jax": ("x", 9),
    "jax-train": ("x", 9),
    "jax-held_out": ("o", 11),
}
"""Role of a curve -> its marker and colour in the chart."""


def print_story(story: Story, console: Console) -> None:
    """Print everything, from the verdict to the quiz.

    Args:
        story: what to print.
        console: where to print, within its width, colours and encoding.
    """
    if console.encoding.lower().startswith("utf"):
        _print(story, console)
        return
    with console.capture() as captured:
        _print(story, console)
    console.file.write(captured.get().encode(console.encoding, "replace").decode(console.encoding))


def _print(story: Story, console: Console) -> None:
    width = min(console.width, WIDEST)
    console.print(_verdict(story), width=width)
    _heading(console, "Pipeline")
    for i, stage in enumerate(story.pipeline, start=1):
        title = Text(f"{i}. {stage.name}", style="bold")
        console.print(title.append(f": {stage.what}", style="not bold"), width=width)
        console.print(_facts(stage), width=width)
    _heading(console, "Training trace")
    console.print(_training(story.training, story.score, width), width=width)
    console.print(Text(_training_note(story.training, story.score)), width=width)
    if story.final_error:
        console.print(Text(story.final_error), width=width)
    console.print()
    for line in _chart(story, width):
        console.print(line, width=width, no_wrap=True)
    _heading(console, "Prediction trace")
    console.print(_prediction(story.prediction, width), width=width)
    console.print(Text(f"{story.prediction.predicted} {story.prediction.true}"), width=width)
    _heading(console, "Warmup against none")
    console.print(Text(story.warmup.note), width=width)
    console.print()
    console.print(_warmup(story.warmup), width=width)
    console.print()
    console.print(Text(story.warmup.sentence), width=width)
    _heading(console, "Quiz")
    for i, question in enumerate(story.quiz, start=1):
        console.print(Text(f"{i}. {question.text}"), width=width)
        console.print(_choices(question), width=width)
    for i, question in enumerate(story.quiz, start=1):
        answer = f"Answer {i}: {_letter(question.right)}) {question.explanation}"
        console.print(Text(answer, style="dim"), width=width)
    console.print()
    console.print(Panel(Text(story.insight), title="Key insight", title_align="left"), width=width)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold underline"))


def _grid() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _verdict(story: Story) -> Panel:
    verdict = story.verdict
    text = Text(f"{verdict.word.upper()}  ", style=f"bold {COLOURS.get(verdict.word, 'yellow')}")
    text.append(story.verdict_sentence, style="default not bold")
    text.append(f"\n{story.subtitle}", style="default not bold")
    largest = ", ".join(
        f"{key} {number(value, 3)}" for key, value in verdict.max_difference.items()
    )
    text.append(f"\nLargest difference, torch against jax: {largest}", style="default not bold")
    for check in verdict.checks:
        word, style = OUTCOMES[check.outcome]
        text.append(f"\n{word}  ", style=style)
        text.append(f"{check.name}: {check.detail}", style="default not bold")
    return Panel(text, title=story.title, title_align="left")


def _facts(stage: Stage) -> Table:
    table = _grid()
    for fact in stage.facts:
        table.add_row(Text("   " + fact.label, style="cyan"), Text(fact.value))
    return table


def _training(rows: Sequence[EpochRow], score: Score, width: int) -> Table:
    roomy = width >= 100
    table = Table(
        box=box.SIMPLE_HEAD if roomy else None, pad_edge=False, padding=(0, 2 if roomy else 1, 0, 0)
    )
    pair = "torch  jax"
    table.add_column("\nep", justify="right", no_wrap=True)
    table.add_column("\nLR", justify="left", no_wrap=True)
    for part in ("train", "held-out"):
        table.add_column(f"{part} loss\n{pair}", no_wrap=True)
        table.add_column(f"{part} {score.head}\n{pair}", no_wrap=True)
    table.add_column("max\ndiff", no_wrap=True)
    table.add_column("\nobservation", no_wrap=True)
    for row in select_rows(rows, EPOCHS):
        table.add_row(
            str(row.epoch),
            _rate(row.lr),
            _losses(row.train_loss),
            _scores(score, row.train_score, not roomy),
            _losses(row.held_out_loss),
            _scores(score, row.held_out_score, not roomy),
            "0" if row.difference == 0 else f"{row.difference:.0e}",
            Text(row.observation, style=_style(row.observation)),
        )
    return table


def _style(observation: str) -> str:
    return "red" if observation in ("not a number", "infinite", "loss rises", "overfitting") else ""


def _rate(value: float) -> str:
    """The value in at most 7 characters, if one digit or more fits."""
    for digits in (4, 3, 2):
        text = number(value, digits)
        if len(text) <= 7:
            return text
    return number(value, 1)


def _losses(values: tuple[float, float]) -> str:
    torch, jax = values
    return f"{short(torch):>6} {short(jax):>6}"


def _scores(score: Score, values: tuple[float, float], narrow: bool) -> str:
    width = len(score.cell(0.5, narrow))
    return " ".join(f"{score.cell(value, narrow):>{width}}" for value in values)


def _training_note(rows: Sequence[EpochRow], score: Score) -> str:
    text = "Each cell holds torch, then jax. LR: the rate of the epoch's last update; "
    text += f"{score.note}; max diff: torch against jax, the largest over the metrics."
    printed = len(select_rows(rows, EPOCHS))
    if printed < len(rows):
        text += f" {printed} of {len(rows)} epochs are shown."
    return text


def _chart(story: Story, width: int) -> list[Text]:
    """The lines of the chart of the loss: title, legend, plot, and the label of the axis."""
    key = "loss" if len(story.training) < 3 else "epoch-loss"
    chart = next(chart for chart in story.charts if chart.key == key)
    plotext.terminal.limit(False, False)  # the console's width counts, not the terminal's
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, 15)
    figure.theme("colorless")
    curves = [curve for curve in chart.curves if curve.role in LOOKS]
    drawn = [_draw(figure, curve, width) for curve in curves]
    if not any(drawn):
        return [Text("No finite loss to draw.")]
    first = int(chart.curves[0].x[0])
    last = int(chart.curves[0].x[-1])
    ticks = list(range(first, last + 1, max(1, -(-(last - first) // 10))))
    figure.ruler("x").ticks(ticks, [str(tick) for tick in ticks])
    lines = [Text.from_ansi(row) for row in figure.build().string().splitlines()]
    for line in lines:
        line.rstrip()
    title = Text(chart.title, style="bold")
    label = Text(chart.x_label.center(width).rstrip(), style="dim")
    return [title, _legend(curves), *lines, label]


def _draw(figure: Any, curve: Curve, width: int) -> bool:
    """Draw a curve; False where none of its values can be drawn."""
    marker, colour = LOOKS[curve.role]
    can_be_drawn = np.isfinite(curve.y) & (np.abs(curve.y) < LARGEST_DRAWN)
    if not can_be_drawn.any():
        return False
    x = curve.x[can_be_drawn]
    y = curve.y[can_be_drawn]
    if marker != "braille" and len(x) > width // 4:
        # few markers leave the line below in sight
        chosen = np.linspace(0, len(x) - 1, width // 4, dtype=int)
        x = x[chosen]
        y = y[chosen]
    symbol = plotext.marker(marker, plotext.pixel(colour))
    signal = figure.signal(x.tolist(), y.tolist(), marker=symbol)
    if marker == "braille" and len(x) > 1:
        signal.lines()
    figure.draw(signal)
    return True


def _legend(curves: Sequence[Curve]) -> Text:
    legend = Text("  ")
    for curve in curves:
        marker, colour = LOOKS[curve.role]
        sign = "--" if marker == "braille" else marker
        legend.append(f"{sign} {curve.name}   ", style=f"color({colour})")
    legend.rstrip()
    return legend


def _prediction(prediction: Prediction, width: int) -> Table:
    roomy = width >= 100
    values = 4 if roomy else 2
    table = Table(box=box.SIMPLE_HEAD if roomy else None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("layer", no_wrap=True)
    table.add_column("units", justify="right", no_wrap=True)
    table.add_column("torch", overflow="fold")
    table.add_column("jax", overflow="fold")
    table.add_column("max diff", no_wrap=True)
    hidden = max(len(prediction.layers) - LAYERS, 0)
    first_hidden = LAYERS // 2
    for i, row in enumerate(prediction.layers):
        if hidden and i == first_hidden:
            table.add_row("...", "", f"{hidden} layers more", "", "")
        if first_hidden <= i < first_hidden + hidden:
            continue
        apart = "0" if row.difference == 0 else number(row.difference, 2)
        cells = several(row.torch, values), several(row.jax, values)
        table.add_row(row.layer, str(len(row.torch)), *cells, apart)
    return table


def _warmup(effect: WarmupEffect) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for header in ("with, torch", "with, jax", "without, torch", "without, jax"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in effect.rows:
        table.add_row(row.what, *(number(value) for value in (*row.with_warmup, *row.without)))
    return table


def _choices(question: Question) -> Table:
    table = _grid()
    for i, choice in enumerate(question.choices):
        table.add_row(f"   {_letter(i)})", Text(choice))
    return table


def _letter(index: int) -> str:
    return "abcdefgh"[index]
