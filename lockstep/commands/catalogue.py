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

    WORDS choose the rows whose group or name holds each of them. The exit status is 1 where a row
    does not hold.
    """
    from lockstep.files.outputs import check_output, write_file
    from lockstep.report.console import make_console
    from lockstep.report.matrix import MATRIX, matrix_markdown, print_matrix
    from lockstep.report.progress import training_progress
    from lockstep.studies.matrix import measure
    from lockstep.studies.matrix_entries import entries

    all_entries = entries()
    chosen = []
    for entry in all_entries:
        text = f"{entry.group} {entry.name}"
        if all(word in text for word in words):
            chosen.append(entry)
    if not chosen:
        groups = ", ".join(dict.fromkeys(entry.group for entry in all_entries))
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
    "--peak",
    type=FiniteFloat(min=0, min_open=True),
    help="Peak rate of the presets; default 0.01.",
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    help="Warmup of the presets, in updates; default a tenth of the run.",
)
@click.option(
    "--updates",
    type=click.IntRange(1, 10_000_000),
    help="Length of the run; default 1000, or the recipe's.",
)
@click.option(
    "--length",
    type=click.IntRange(min=1),
    help="T of the presets, in updates; default the length of the run.",
)
@set_option
@click.option(
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a plot as .png or .html, or the arrays oracle, torch and jax as .npz; repeatable.",
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
    """Show the learning rate of every update.

    The rates are those of RECIPE, of libraries' schedules, or of several over one another. With
    RECIPE, the presets take peak, warmup and length of the run from it. `--preset hf.cosine` alone
    needs no recipe; `--preset list` names all.
    """
    from lockstep.files.memory import refuse_too_large
    from lockstep.files.outputs import write_file
    from lockstep.report.console import make_console
    from lockstep.report.schedule_curve import KINDS, print_curves, render
    from lockstep.schedules.curve import applied_rates, preset_curve

    if "list" in presets:
        return _list_presets()
    if not presets:
        _refuse_preset_options(peak=peak, warmup=warmup, length=length)
    name = recipe or "seed"
    chosen = None
    if recipe is not None or not presets or overrides:
        chosen = chosen_recipe(name, None, None, overrides)
    _check_curve_files(outs, recipe_files(name, chosen) if chosen else [])
    curves = []
    if chosen:
        own_curve = _recipe_curve(name, chosen, updates)
        curves.append(own_curve)
        peak = own_curve.recipe.schedule.peak if peak is None else peak
        warmup = own_curve.warmup if warmup is None else warmup
        updates = len(own_curve.rates_T)
    if recipe is None:
        _refuse_absent_knobs(presets, warmup=warmup, length=length)
    updates = updates or 1000
    warmup = updates // 10 if warmup is None else warmup
    refuse_too_large(f"--updates {updates}: {len(presets)} presets", 3 * 8 * updates * len(presets))
    curves += [
        preset_curve(preset, peak=peak, warmup=warmup, updates=updates, length=length)
        for preset in presets
    ]
    if len(curves) > 26:
        raise InputError(f"--preset: at most 26 curves at a time, got {len(curves)}")
    wants_arrays = any(out.suffix == ".npz" for out in outs)
    applied = applied_rates(curves) if wants_arrays else {}
    files = {out: render(out, curves, applied) for out in outs}
    print_curves(curves, make_console())
    for out, content in files.items():
        write_file(out, content, KINDS[out.suffix])
        echo(f"wrote {out}")
    return 0


def _list_presets() -> int:
    from lockstep.recipe.presets import PRESETS, UNSAID

    for name, preset in PRESETS["schedule"].items():
        echo(f"{name:36}{preset.source}\n{'':36}{', '.join(preset.free)}")
    for name, line in UNSAID["schedule"].items():
        echo(f"{name:36}{line}")
    return 0


def _refuse_preset_options(**knobs: float | None) -> None:
    for knob, value in knobs.items():
        if value is not None:
            raise InputError(
                f"--{knob} {value}: is for presets; a recipe's: --set schedule.{knob}={value}"
            )


def _refuse_absent_knobs(presets: Sequence[str], **knobs: int | None) -> None:
    """Refuse a knob that none of the presets has."""
    from lockstep.recipe.presets import PRESETS

    names = [preset.split(",")[0] for preset in presets]
    free = [PRESETS["schedule"][name].free for name in names if name in PRESETS["schedule"]]
    if not free:
        return
    for knob, value in knobs.items():
        if value is not None and not any(knob in preset_knobs for preset_knobs in free):
            raise InputError(f"--{knob} {value}: none of these presets has a {knob}")


def _check_curve_files(outs: Sequence[Path], inputs: Sequence[Path]) -> None:
    from lockstep.files.outputs import check_output
    from lockstep.report.schedule_curve import KINDS

    for out in outs:
        if out.suffix not in KINDS:
            raise InputError(f"--out {out}: must end in {', '.join(KINDS)}")
        check_output(out, KINDS[out.suffix], option="--out", inputs=inputs)


@click.command(hidden=True)
@click.argument("backend", type=click.Choice(BACKENDS))
@click.argument("tables", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def rates(backend: str, tables: Path, out: Path) -> int:
    """Write the rates that a twin applies of each table; see `lockstep.schedules.curve`."""
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
    help="Run the pages with what is installed, and say which traps moved.",
)
def atlas(words: Sequence[str], checks: bool) -> int:
    """Look up a trap between the two frameworks.

    WORD is a word of a page's text or a recipe field; without one, all traps are listed. With
    --check the exit status is 0 where every figure is the one recorded for these versions, 1 where
    one moved, 2 where a page cannot run.
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
        checks = check_pages(pages, versions, lambda count: report("atlas", count, len(pages)))
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
