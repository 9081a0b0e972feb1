"""Commands that show what there is: every choice, schedule and trap."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockstep.backends import BACKENDS, TWINS
from lockstep.commands.options import (
    FiniteFloat,
    chosen_recipe,
    device_option,
    recipe_files,
    set_option,
    twin,
)
from lockstep.errors import InputError
from lockstep.printable import echo

if TYPE_CHECKING:
    from lockstep.recipe import Recipe
    from lockstep.schedules.curve import Curve
    from lockstep.studies.atlas.pages import Page

__all__ = ["atlas", "curve", "matrix", "rates"]


@click.command(short_help="Measure every choice in both frameworks against the oracle.")
@click.argument("words", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the table as Markdown too.",
)
@device_option
def matrix(words: Sequence[str], out: Path | None, device: str) -> int:
    """Train every schedule, optimizer, loss and layer in both frameworks and show how far each is
    from the oracle.

    WORDS choose rows: those whose group or name holds each of them. Exits with 1 where a row does
    not hold.
    """
    from lockstep.files.outputs import check_output, write_file
    from lockstep.report.console import make_console
    from lockstep.report.matrix import MATRIX, matrix_markdown, print_matrix
    from lockstep.report.progress import training_progress
    from lockstep.studies.matrix import measure
    from lockstep.studies.matrix_entries import entries

    every = entries()
    chosen = [
        entry for entry in every if all(word in f"{entry.group} {entry.name}" for word in words)
    ]
    if not chosen:
        groups = ", ".join(dict.fromkeys(entry.group for entry in every))
        raise InputError(
            f"{' '.join(words)}: no row of the matrix holds that; its groups: {groups}"
        )
    if out is not None:
        check_output(out, MATRIX, option="--out")
    with training_progress() as report:
        rows = measure(chosen, device=device, report=report)
    print_matrix(rows, make_console())
    if out is not None:
        write_file(out, matrix_markdown(rows).encode(), MATRIX)
    return 0 if all(row.holds for row in rows) else 1


@click.command(short_help="Show the learning rate of every update.")
@click.argument("recipe", required=False)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME[,KNOB=VALUE]",
    help="A library's schedule; repeatable.",
)
@click.option(
    "--peak", type=FiniteFloat(min=0, min_open=True), help="Of the presets; default 0.01."
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    help="Of the presets, in updates; default a tenth of the run.",
)
@click.option(
    "--updates",
    type=click.IntRange(1, 10_000_000),
    help="Length of the run; default 1000, or the recipe's.",
)
@click.option(
    "--length", type=click.IntRange(min=1), help="T of the presets, where it is not the run's."
)
@set_option
@click.option(
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A plot as .png or .html, or the arrays oracle, torch and jax as .npz; repeatable.",
)
def curve(
    recipe: str | None,
    presets: Sequence[str],
    peak: float | None,
    warmup: int | None,
    updates: int | None,
    length: int | None,
    overrides: Sequence[str],
    outs: Sequence[Path],
) -> int:
    """Show the learning rate of every update: of RECIPE, of libraries' schedules, or of several
    over one another.

    With RECIPE, the presets take peak, warmup and length of the run from it. `--preset hf.cosine`
    alone needs no recipe; `--preset list` names all.
    """
    from lockstep.files.memory import refuse_too_large
    from lockstep.files.outputs import check_output, write_file
    from lockstep.recipe.presets import PRESETS, UNSAID
    from lockstep.report.console import make_console
    from lockstep.report.schedule_curve import KINDS, print_curves, render
    from lockstep.schedules.curve import applied_rates, preset_curve

    if "list" in presets:
        for name, preset in PRESETS["schedule"].items():
            echo(f"{name:36}{preset.source}\n{'':36}{', '.join(preset.free)}")
        for name, line in UNSAID["schedule"].items():
            echo(f"{name:36}{line}")
        return 0
    for knob, value in (("peak", peak), ("warmup", warmup), ("length", length)):
        if value is not None and not presets:
            raise InputError(
                f"--{knob} {value}: is for presets; a recipe's: --set schedule.{knob}={value}"
            )
    named, chosen = recipe or "seed", None
    if recipe is not None or not presets or overrides:
        chosen = chosen_recipe(named, None, None, overrides)
    for out in outs:
        if out.suffix not in KINDS:
            raise InputError(f"--out {out}: must end in {', '.join(KINDS)}")
        inputs = recipe_files(named, chosen) if chosen else []
        check_output(out, KINDS[out.suffix], option="--out", inputs=inputs)
    curves = []
    if chosen:
        curves.append(_recipe_curve(named, chosen, updates))
        peak = curves[0].recipe.schedule.peak if peak is None else peak
        warmup = curves[0].warmup if warmup is None else warmup
        updates = len(curves[0].rates_T)
    free = [
        PRESETS["schedule"][name].free
        for name in (p.split(",")[0] for p in presets)
        if name in PRESETS["schedule"]
    ]
    for knob, value in (("warmup", warmup), ("length", length)):
        if (
            value is not None
            and recipe is None
            and free
            and not any(knob in having for having in free)
        ):
            raise InputError(f"--{knob} {value}: none of these presets has a {knob}")
    updates = updates or 1000
    warmup = updates // 10 if warmup is None else warmup
    refuse_too_large(f"--updates {updates}: {len(presets)} presets", 3 * 8 * updates * len(presets))
    curves += [
        preset_curve(name, peak=peak, warmup=warmup, updates=updates, length=length)
        for name in presets
    ]
    if len(curves) > 26:
        raise InputError(f"--preset: at most 26 curves at a time, got {len(curves)}")
    applied = applied_rates(curves) if any(out.suffix == ".npz" for out in outs) else {}
    files = {out: render(out, curves, applied) for out in outs}
    print_curves(curves, make_console())
    for out, content in files.items():
        write_file(out, content, KINDS[out.suffix])
        echo(f"wrote {out}")
    return 0


@click.command(hidden=True)
@click.argument("backend", type=click.Choice(BACKENDS))
@click.argument("tables", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def rates(backend: str, tables: Path, out: Path) -> int:
    """What a twin applies of each table of learning rates; see `lockstep.schedules.curve`."""
    import numpy as np

    apply = twin(backend, f"{TWINS[backend]}.schedule").applied_rates
    np.save(out, np.stack([apply(table_T) for table_T in np.load(tables)]))
    return 0


@click.command(short_help="Look up a trap between the two frameworks.")
@click.argument("words", nargs=-1, metavar="[WORD]")
@click.option(
    "--check",
    "checks",
    is_flag=True,
    help="Run the pages with what is installed: which traps moved?",
)
def atlas(words: Sequence[str], checks: bool) -> int:
    """Look up a trap between the two frameworks: WORD in a page's text, or a recipe field; none
    lists all.

    With --check it exits with 0 where every figure is the one recorded for these versions, 1 where
    one moved, 2 where
    a page cannot run.
    """
    from lockstep.report.atlas import print_index, print_page
    from lockstep.report.console import make_console
    from lockstep.studies.atlas.pages import find_pages, load_atlas

    pages = load_atlas()
    chosen = find_pages(pages, words) if words else pages
    if checks:
        return _check_atlas(chosen)
    if len(chosen) == 1:
        print_page(chosen[0], make_console())
    else:
        print_index(chosen, make_console(), grouped=not words)
    return 0


def _check_atlas(pages: Sequence["Page"]) -> int:
    from lockstep.report.atlas import print_check
    from lockstep.report.console import make_console
    from lockstep.report.progress import training_progress
    from lockstep.studies.atlas.check import check_pages, installed_versions

    versions = installed_versions()
    with training_progress("pages") as report:
        checks = check_pages(pages, versions, lambda done: report("atlas", done, len(pages)))
    print_check(checks, versions, make_console())
    statuses = {check.status for check in checks}
    if "moved" in statuses:
        return 1
    return 2 if "cannot run" in statuses else 0


def _recipe_curve(name: str, recipe: "Recipe", updates: int | None) -> "Curve":
    from lockstep.data_prep import prepare
    from lockstep.schedules.curve import Curve

    if updates is None:
        return Curve.of(name, recipe, prepare(recipe).updates_per_epoch)
    if recipe.schedule.unit == "epoch":
        raise InputError(
            f"--updates {updates}: the schedule of {name} counts epochs, whose updates its "
            "data gives"
        )
    return Curve.of(name, recipe.with_values({"training.epochs": updates}), 1)
