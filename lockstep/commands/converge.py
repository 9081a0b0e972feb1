"""The command that compares convergence over many seeds."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockstep.commands.options import (
    chosen_recipe,
    device_option,
    recipe_files,
    recipe_options,
    warn,
)
from lockstep.errors import InputError

if TYPE_CHECKING:
    from lockstep.recipe import Recipe
    from lockstep.records.ensemble import Ensemble
    from lockstep.studies.converge.study import Study

__all__ = ["converge"]

INCONCLUSIVE = 3
"""Exit status where neither equivalence nor a difference is shown."""


@click.command(short_help="Train many seeds and say whether both come to the same.")
@click.argument("recipe", default="seed")
@recipe_options
@device_option
@click.option(
    "--engine",
    type=click.Choice(["auto", "plain"]),
    default="auto",
    show_default=True,
    help="auto: many seeds at once; plain: one after another, the framework as people write it.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="How many seeds each set-up trains.",
)
@click.option(
    "--first-seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The first of the seeds; another makes another sample.",
)
@click.option(
    "--controls", is_flag=True, help="Plant faults in jax too; each must be found different."
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    metavar="N",
    help="Count false verdicts in N studies of equal set-ups.",
)
@click.option(
    "--pilot",
    is_flag=True,
    help="Propose margins and a target from other seeds, and judge nothing.",
)
@click.option(
    "--out", metavar="FOLDER", help="The study's folder; default runs/<recipe>-convergence."
)
@click.option(
    "--png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the curves as a picture too.",
)
def converge(
    recipe: str,
    data_path: str | None,
    target: str | None,
    overrides: Sequence[str],
    device: str,
    engine: str,
    seeds: int,
    first_seed: int,
    controls: bool,
    repeat: int | None,
    pilot: bool,
    out: str | None,
    png: Path | None,
) -> int:
    """Train many seeds of RECIPE in both frameworks, and say whether they come to the same.

    The margins are those of the recipe's [convergence]. The exit status is 0 where the verdict is
    equivalent, 1 where it is different or a control is not found different, 3 where it is
    inconclusive.
    """
    import os

    from lockstep.files.outputs import check_output, write_file
    from lockstep.report.console import make_console
    from lockstep.report.convergence import print_study
    from lockstep.report.convergence_page import PICTURE, study_png
    from lockstep.report.picture import require_pictures
    from lockstep.report.progress import training_progress
    from lockstep.report.run.folder import new_run_folder
    from lockstep.studies.converge.study import check_declared
    from lockstep.studies.converge.study import converge as run

    chosen = chosen_recipe(recipe, data_path, target, overrides)
    if pilot:
        if controls or repeat or out or png:
            raise InputError(
                "--pilot: judges nothing, and takes neither --controls, --repeat, --out nor --png"
            )
        return _run_pilot(chosen, seeds, device, engine)
    check_declared(chosen)
    if out is not None and os.path.lexists(out):
        raise InputError(f"--out {out}: exists already")
    if png is not None:
        if png.suffix != ".png":
            raise InputError(f"--png {png}: must end in .png")
        check_output(png, PICTURE, option="--png", inputs=recipe_files(recipe, chosen))
        require_pictures("--png:")  # before hours of training, not after
    name = Path(data_path).stem if data_path else Path(recipe).stem
    with new_run_folder(Path(out) if out else Path("runs") / f"{name}-convergence") as folder:
        with training_progress() as report:
            study = run(
                chosen,
                seeds,
                first_seed=first_seed,
                with_controls=controls,
                repeats=repeat or 0,
                device=device,
                engine=engine,
                report=report,
            )
        _write_study(study, name, folder.partial)
    if png is not None:
        write_file(png, study_png(study), PICTURE)
    console = make_console()
    _warn_of_slow_training(study.ensembles.values())
    print_study(study, console)
    console.print(
        f"\nThe study is {folder.final}; open {folder.final / 'report.html'}.", soft_wrap=True
    )
    if study.word == "different" or study.missed:
        return 1
    return 0 if study.word == "equivalent" else INCONCLUSIVE


def _run_pilot(recipe: "Recipe", seeds: int, device: str, engine: str) -> int:
    from lockstep.report.console import make_console
    from lockstep.report.convergence import print_pilot
    from lockstep.report.progress import training_progress
    from lockstep.studies.converge.study import pilot

    with training_progress() as report:
        proposed = pilot(recipe, seeds, device=device, engine=engine, report=report)
    print_pilot(proposed, seeds, make_console())
    return 0


def _write_study(study: "Study", name: str, folder: Path) -> None:
    """Write the ensembles, the page and the figures of a study into a folder."""
    import json

    from lockstep.files.outputs import NEW, write_file
    from lockstep.report.convergence import study_json
    from lockstep.report.convergence_page import study_html
    from lockstep.studies.converge.study import file_of

    for key, ensemble in study.ensembles.items():
        ensemble.save(folder / file_of(key))
    write_file(folder / "report.html", study_html(study, name).encode(), NEW)
    figures = json.dumps(study_json(study), indent=2, allow_nan=False)
    write_file(folder / "study.json", figures.encode(), NEW)


def _warn_of_slow_training(ensembles: Iterable["Ensemble"]) -> None:
    """Say why members were trained one after another, where they were."""
    reasons = {
        f"{ensemble.header['backend']}: {ensemble.header['reason']}"
        for ensemble in ensembles
        if "reason" in ensemble.header
    }
    warn(sorted(reasons))
