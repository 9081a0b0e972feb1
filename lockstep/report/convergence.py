"""A study of convergence in the terminal and as JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
    """A judgement as text; the interval is Welch's, of the level 1 - 2 alpha, as a half width."""

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
        f"equivalent: two one-sided Welch t tests at {alpha:g} and the "
        f"{100 * (1 - 2 * alpha):g} % bootstrap interval "
        "place the difference of the means within the margins. different: a one-sided test at "
        f"{alpha:g} over the number of metrics, and the bootstrap interval of that level, "
        "place it beyond one. "
        "inconclusive: neither. Over all metrics, with own draws and with shared ones: "
        "different where one is, "
        "equivalent where all are."
    )


def metric_label(recipe: Recipe, metric: str) -> str:
    """ "held-out loss", "held-out R2", "updates to 0.1"."""
    if metric == "updates":
        return f"updates to {recipe.convergence.target:g}"
    return (
        "held-out "
        + {"loss": "loss", "score": {"r2": "R2"}.get(score_name(recipe), score_name(recipe))}[
            metric
        ]
    )


def verdict_row(recipe: Recipe, found: Judgement) -> Row:
    """The cells of a judgement."""
    half = (found.interval[1] - found.interval[0]) / 2
    return Row(
        metric_label(recipe, found.metric),
        _pair(found.means, 4),
        _pair(found.deviations, 2),
        f"{found.difference:+.2g} ± {half:.2g}",
        f"{found.bootstrap[0]:+.2g} to {found.bootstrap[1]:+.2g}",
        f"{found.margin:.2g}",
        found.word,
    )


def power_rows(study: Study) -> list[tuple[str, str, str, str, str, str]]:
    """Of each metric what its spread could show; see `lockstep.studies.converge.judge.Power`."""
    return [
        (
            metric_label(study.recipe, found.metric),
            "shared" if found.paired else "own",
            f"{found.power.equivalent:.3f}",
            f"{found.power.margin:.3f}",
            f"{found.power.different:.3f}",
            f"{found.power.smallest:.2g}",
        )
        for found in (*study.own, *study.paired)
    ]


def warmup_rows(study: Study) -> list[tuple[str, list[str]]]:
    """The mean of each metric, in torch and jax with the recipe's schedule, then with the
    contrast.
    """
    setups = [(setup, backend) for setup in ("own", "contrast") for backend in BACKENDS]
    values = [measure(study.recipe, study.ensembles[key]) for key in setups]
    return [
        (metric_label(study.recipe, m), [f"{value[m].mean():.4g}" for value in values])
        for m in values[0]
    ]


def summary_of_repeats(study: Study) -> str:
    """The false verdicts of studies of a framework against itself."""
    words = Counter(overall(judgements) for _, judgements in study.repeats)
    single = Counter(j.word for _, judgements in study.repeats for j in judgements)
    n, m = len(study.repeats), sum(single.values())
    return (
        f"{n} studies of a framework against itself, other seeds each: "
        f"{words['equivalent']} equivalent, "
        f"{words['inconclusive']} inconclusive, {words['different']} different (false; rate "
        f"{words['different'] / n:.3f}, allowed {study.recipe.convergence.alpha:g}). Of "
        f"their {m} metrics "
        f"{single['equivalent']}, {single['inconclusive']} and {single['different']}."
    )


def print_study(study: Study, console: Console) -> None:
    """Tables that fit into 80 columns, the verdict last."""
    recipe, level = study.recipe, 100 * (1 - 2 * study.recipe.convergence.alpha)
    print_verdicts(
        study, study.own, f"{study.seeds} seeds each, each framework's own draws", level, console
    )
    print_verdicts(
        study, study.paired, f"{study.seeds} pairs that share their draws", level, console
    )
    table = _table("Power, from the spread that was seen")
    table.add_column("metric", no_wrap=True)
    table.add_column("draws")
    for header in ("same, called\nequivalent", "plain test\nsees margin", "twice it,\ndifferent"):
        table.add_column(header, justify="right")
    table.add_column(f"found, power\n{recipe.convergence.power:g}", justify="right")
    for of_power in power_rows(study):
        table.add_row(*of_power)
    console.print(table)
    table = _table("Warmup against none (own draws, means)")
    for header in ("metric", "torch", "jax", "torch, contrast", "jax, contrast"):
        table.add_column(header, justify="left" if header == "metric" else "right")
    for label, means in warmup_rows(study):
        table.add_row(label, *means)
    console.print(table)
    if study.controls:
        table = _table("Controls: planted in jax, difference from torch over margin")
        for header in ("control", "draws", "loss", "score", "updates", "verdict"):
            table.add_column(
                header, justify="right" if header in METRICS else "left", overflow="fold"
            )
        for control, judgements in study.controls:
            word = overall(judgements)
            for paired in (False, True):
                mine = [j for j in judgements if j.paired == paired]
                ratios = [_in_margins(j) for j in mine]
                cells = (
                    ("", "shared", *ratios, "") if paired else (control.text, "own", *ratios, word)
                )
                table.add_row(*cells, style="" if word == "different" else "red")
        console.print(table)
        console.print("* different by itself")
    if study.repeats:
        console.print(summary_of_repeats(study))
    for backend in BACKENDS:
        share = reached(recipe, study.ensembles["own", backend])
        if share < 1:
            console.print(
                f"{backend}: {100 * (1 - share):.3g} % of the seeds do not reach "
                f"{recipe.convergence.target:g}"
            )
    for (setup, backend), ensemble in study.ensembles.items():
        members = blown_up(ensemble)
        if members and setup in ("own", "shared"):
            console.print(
                f"{backend}, {setup} draws: {members} of {study.seeds} seeds end at no "
                "finite loss, and nothing is "
                "judged of them"
            )
    console.print()
    console.print(f"verdict: {study.word}", style=f"bold {COLOURS[study.word]}")
    console.print(sentence(study))
    if study.missed:
        names = "; ".join(control.text for control in study.missed)
        console.print(f"Controls that are not found different: {names}.", style="red")


def print_verdicts(
    study: Study, found: Sequence[Judgement], title: str, level: float, console: Console
) -> None:
    """A row for each metric."""
    table = _table(title)
    table.add_column("metric", no_wrap=True)
    for header in ("torch", "jax", f"jax - torch, {level:g} %", "margin"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for judgement in found:
        row = verdict_row(study.recipe, judgement)
        table.add_row(
            row.metric, *row.means, row.difference, row.margin, row.word, style=COLOURS[row.word]
        )
    console.print(table)


def print_pilot(found: Pilot, seeds: int, console: Console) -> None:
    """What was measured, and the section for the recipe."""
    labels = {metric: metric_label(found.recipe, metric) for metric in found.effects}
    table = _table(f"{seeds} pairs of a pilot: what each control changes")
    for header in ("control", *labels.values()):
        table.add_column(header, justify="left" if header == "control" else "right")
    for control in next(iter(found.effects.values())):
        table.add_row(control, *(f"{effects[control]:+.2g}" for effects in found.effects.values()))
    table.add_section()
    for i, kind in enumerate(("own draws", "pairs")):
        table.add_row(
            f"decided by {seeds} {kind}",
            *(f"{decided[i]:.2g}" for decided in found.decided.values()),
        )
    console.print(table)
    declared = found.recipe.convergence
    console.print(
        "A margin is half of the least change, or what as many seeds decide. For the recipe:\n"
    )
    console.print("[convergence]")
    for name, value in asdict(declared).items():
        console.print(f"{name} = {value!r}")


def study_json(study: Study) -> dict[str, Any]:
    """All figures."""
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
            control.text: {
                "verdict": overall(found),
                "metrics": [_plain(judgement) for judgement in found],
            }
            for control, found in study.controls
        },
        "repeats": [
            {
                "backend": backend,
                "verdict": overall(found),
                "metrics": [_plain(judgement) for judgement in found],
            }
            for backend, found in study.repeats
        ],
        "environments": {
            backend: study.ensembles["own", backend].header["environment"] for backend in BACKENDS
        },
    }


def _plain(value: Any) -> Any:
    """For strict JSON: no infinities."""
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return _plain(asdict(value)) if isinstance(value, Judgement) else value


def _in_margins(found: Judgement) -> str:
    """A difference over its margin, so that less than 1 does not read as 1; starred where it
    decides by itself.
    """
    share = found.difference / found.margin
    star = "*" if found.word == "different" else ""
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
