"""A study of convergence in the terminal and as JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from lockstep.backends import BACKENDS
from lockstep.numbers import factor, json_number
from lockstep.recipe import Recipe
from lockstep.studies.converge.judge import Judgement, overall
from lockstep.studies.converge.measure import METRICS, blown_up, measure, reached, score_name
from lockstep.studies.converge.study import Pilot, Study

__all__ = [
    "Row",
    "metric_label",
    "power_rows",
    "print_pilot",
    "print_study",
    "rule",
    "sentence",
    "study_json",
    "summary_of_repeats",
    "verdict_row",
    "warmup_rows",
]

SENTENCES = {
    "equivalent": "The frameworks come to the same, within the declared margins.",
    "different": "The frameworks do not come to the same: a difference beyond a declared margin.",
    "inconclusive": "Neither equivalence nor a difference beyond a margin is shown.",
}
COLOURS = {"equivalent": "green", "different": "red", "inconclusive": "yellow"}


@dataclass(frozen=True)
class Row:
    """A judgement as text. The difference has the half width of Welch's interval at 1 - 2 alpha."""

    metric: str
    means: tuple[str, str]
    deviations: tuple[str, str]
    difference: str
    bootstrap: str
    margin: str
    word: str


def sentence(study: Study) -> str:
    """The verdict in words."""
    return SENTENCES[study.word]


def rule(recipe: Recipe) -> str:
    """How a verdict is reached."""
    alpha = recipe.convergence.alpha
    return (
        f"equivalent: two one-sided Welch t tests at {alpha:g} and the {100 * (1 - 2 * alpha):g} % "
        "bootstrap interval place the difference of the means within the margins. different: a "
        f"one-sided test at {alpha:g} over the number of metrics, and the bootstrap interval of "
        "that level, place it beyond one. inconclusive: neither. Over all metrics, with own draws "
        "and with shared ones: different where one is, equivalent where all are."
    )


def metric_label(recipe: Recipe, metric: str) -> str:
    """ "held-out loss", "held-out R2", "updates to 0.1"."""
    if metric == "updates":
        return f"updates to {recipe.convergence.target:g}"
    if metric == "loss":
        return "held-out loss"
    score = score_name(recipe)
    return "held-out R2" if score == "r2" else f"held-out {score}"


def verdict_row(recipe: Recipe, judgement: Judgement) -> Row:
    """The cells of a judgement."""
    half = (judgement.interval[1] - judgement.interval[0]) / 2
    return Row(
        metric_label(recipe, judgement.metric),
        _pair(judgement.means, 4),
        _pair(judgement.deviations, 2),
        f"{judgement.difference:+.2g} ± {half:.2g}",
        f"{judgement.bootstrap[0]:+.2g} to {judgement.bootstrap[1]:+.2g}",
        f"{judgement.margin:.2g}",
        judgement.word,
    )


def power_rows(study: Study) -> list[tuple[str, str, str, str, str, str]]:
    """What the spread of each metric could show; see `lockstep.studies.converge.judge.Power`."""
    return [
        (
            metric_label(study.recipe, judgement.metric),
            "shared" if judgement.paired else "own",
            f"{judgement.power.equivalent:.3f}",
            f"{judgement.power.margin:.3f}",
            f"{judgement.power.different:.3f}",
            f"{judgement.power.smallest:.2g}",
        )
        for judgement in (*study.own, *study.paired)
    ]


def warmup_rows(study: Study) -> list[tuple[str, list[str]]]:
    """Each metric's label, and its means: torch and jax with the recipe's schedule, then with the
    contrast's.
    """
    set_ups = [(draws, backend) for draws in ("own", "contrast") for backend in BACKENDS]
    measured = [measure(study.recipe, study.ensembles[set_up]) for set_up in set_ups]
    rows = []
    for metric in measured[0]:
        means = [f"{values[metric].mean():.4g}" for values in measured]
        rows.append((metric_label(study.recipe, metric), means))
    return rows


def summary_of_repeats(study: Study) -> str:
    """The false verdicts of studies of a framework against itself."""
    words = Counter(overall(judgements) for _, judgements in study.repeats)
    of_metrics: Counter[str] = Counter()
    for _, judgements in study.repeats:
        of_metrics.update(judgement.word for judgement in judgements)
    return (
        f"{len(study.repeats)} studies of a framework against itself, other seeds each: "
        f"{words['equivalent']} equivalent, {words['inconclusive']} inconclusive, "
        f"{words['different']} different (false; rate "
        f"{words['different'] / len(study.repeats):.3f}, allowed "
        f"{study.recipe.convergence.alpha:g}). Of their {of_metrics.total()} metrics "
        f"{of_metrics['equivalent']}, {of_metrics['inconclusive']} and {of_metrics['different']}."
    )


def print_study(study: Study, console: Console) -> None:
    """Print tables that fit into 80 columns, and the verdict last."""
    own_title = f"{study.seeds} seeds each, each framework's own draws"
    _print_verdicts(study, study.own, own_title, console)
    _print_verdicts(study, study.paired, f"{study.seeds} pairs that share their draws", console)
    _print_power(study, console)
    _print_warmup(study, console)
    if study.controls:
        _print_controls(study, console)
    if study.repeats:
        console.print(summary_of_repeats(study))
    _print_incomplete(study, console)
    console.print()
    console.print(f"verdict: {study.word}", style=f"bold {COLOURS[study.word]}")
    console.print(sentence(study))
    if study.missed:
        names = "; ".join(control.text for control in study.missed)
        console.print(f"Controls that are not found different: {names}.", style="red")


def _print_power(study: Study, console: Console) -> None:
    table = _table("Power, from the spread that was seen")
    table.add_column("metric", no_wrap=True)
    table.add_column("draws")
    for header in ("same, called\nequivalent", "plain test\nsees margin", "twice it,\ndifferent"):
        table.add_column(header, justify="right")
    table.add_column(f"found, power\n{study.recipe.convergence.power:g}", justify="right")
    for row in power_rows(study):
        table.add_row(*row)
    console.print(table)


def _print_warmup(study: Study, console: Console) -> None:
    table = _table("Warmup against none (own draws, means)")
    for header in ("metric", "torch", "jax", "torch, contrast", "jax, contrast"):
        table.add_column(header, justify="left" if header == "metric" else "right")
    for label, means in warmup_rows(study):
        table.add_row(label, *means)
    console.print(table)


def _print_controls(study: Study, console: Console) -> None:
    """Print two rows for each control: own draws with the overall verdict, then shared draws."""
    table = _table("Controls: planted in jax, difference from torch over margin")
    for header in ("control", "draws", "loss", "score", "updates", "verdict"):
        justify: Literal["left", "right"] = "right" if header in METRICS else "left"
        table.add_column(header, justify=justify, overflow="fold")
    for control, judgements in study.controls:
        own = [_in_margins(judgement) for judgement in judgements if not judgement.paired]
        shared = [_in_margins(judgement) for judgement in judgements if judgement.paired]
        word = overall(judgements)
        style = "" if word == "different" else "red"
        table.add_row(control.text, "own", *own, word, style=style)
        table.add_row("", "shared", *shared, "", style=style)
    console.print(table)
    console.print("* different by itself")


def _print_incomplete(study: Study, console: Console) -> None:
    """Print how many seeds do not reach the target, and how many end at no finite loss."""
    for backend in BACKENDS:
        share = reached(study.recipe, study.ensembles["own", backend])
        if share < 1:
            console.print(
                f"{backend}: {100 * (1 - share):.3g} % of the seeds do not reach "
                f"{study.recipe.convergence.target:g}"
            )
    for (draws, backend), ensemble in study.ensembles.items():
        members = blown_up(ensemble)
        if members and draws in ("own", "shared"):
            console.print(
                f"{backend}, {draws} draws: {members} of {study.seeds} seeds end at no finite "
                "loss, and nothing is judged of them"
            )


def _print_verdicts(
    study: Study, judgements: Sequence[Judgement], title: str, console: Console
) -> None:
    level = 100 * (1 - 2 * study.recipe.convergence.alpha)
    table = _table(title)
    table.add_column("metric", no_wrap=True)
    for header in ("torch", "jax", f"jax - torch, {level:g} %", "margin"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for judgement in judgements:
        row = verdict_row(study.recipe, judgement)
        table.add_row(
            row.metric, *row.means, row.difference, row.margin, row.word, style=COLOURS[row.word]
        )
    console.print(table)


def print_pilot(pilot: Pilot, seeds: int, console: Console) -> None:
    """Print what each control changes, and the section for the recipe."""
    labels = [metric_label(pilot.recipe, metric) for metric in pilot.effects]
    table = _table(f"{seeds} pairs of a pilot: what each control changes")
    table.add_column("control")
    for label in labels:
        table.add_column(label, justify="right")
    for control in next(iter(pilot.effects.values())):
        table.add_row(control, *(f"{effects[control]:+.2g}" for effects in pilot.effects.values()))
    table.add_section()
    for i, kind in enumerate(("own draws", "pairs")):
        decided = [f"{differences[i]:.2g}" for differences in pilot.decided.values()]
        table.add_row(f"decided by {seeds} {kind}", *decided)
    console.print(table)
    console.print(
        "A margin is half of the least change, or what as many seeds decide. For the recipe:\n"
    )
    console.print("[convergence]")
    for name, value in asdict(pilot.recipe.convergence).items():
        console.print(f"{name} = {value!r}")


def study_json(study: Study) -> dict[str, Any]:
    """Every figure of a study, as strict JSON."""
    return {
        "schema": "lockstep.convergence/1",
        "recipe_hash": study.recipe.hash,
        "convergence": asdict(study.recipe.convergence),
        "seeds": study.seeds,
        "first_seed": study.first_seed,
        "verdict": study.word,
        "own": [_plain(judgement) for judgement in study.own],
        "paired": [_plain(judgement) for judgement in study.paired],
        "controls": {
            control.text: _judgements_json(judgements) for control, judgements in study.controls
        },
        "repeats": [
            {"backend": backend, **_judgements_json(judgements)}
            for backend, judgements in study.repeats
        ],
        "environments": {
            backend: study.ensembles["own", backend].header["environment"] for backend in BACKENDS
        },
    }


def _judgements_json(judgements: Sequence[Judgement]) -> dict[str, Any]:
    return {
        "verdict": overall(judgements),
        "metrics": [_plain(judgement) for judgement in judgements],
    }


def _plain(value: Any) -> Any:
    """The value for strict JSON, which has no infinities."""
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return _plain(asdict(value)) if isinstance(value, Judgement) else value


def _in_margins(judgement: Judgement) -> str:
    """A difference over its margin; a share below 1 does not read as 1. A star marks one that is
    different by itself.
    """
    share = judgement.difference / judgement.margin
    star = "*" if judgement.word == "different" else ""
    return f"{'-' if share < 0 else '+'}{factor(abs(share), 2)}{star}"


def _pair(values: tuple[float, float], digits: int) -> tuple[str, str]:
    return f"{values[0]:.{digits}g}", f"{values[1]:.{digits}g}"


def _table(title: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=title,
        title_justify="left",
    )
