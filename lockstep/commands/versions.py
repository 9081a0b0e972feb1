"""Commands that compare trainings by different versions of the frameworks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lockstep.backends import BACKENDS, TRAINERS
from lockstep.commands.options import device_option
from lockstep.errors import InputError
from lockstep.printable import LAYOUT, echo, printable

if TYPE_CHECKING:
    from lockstep.files.outputs import Kind
    from lockstep.golden import Key

__all__ = ["bless", "matrix_versions", "upgrade_check"]

folder_argument = click.argument(
    "folder", type=click.Path(path_type=Path, file_okay=False), default="golden"
)
out_option = click.option(
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the findings as .md or .json too; repeatable.",
)
recipe_option = click.option(
    "--recipe", "names", multiple=True, metavar="NAME", help="Take this recipe alone; repeatable."
)


@click.command(short_help="Record golden traces with what is installed now.")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="golden",
    show_default=True,
    help="The golden folder; an older one is replaced.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(BACKENDS),
    help="What to bless beside the oracle; repeatable; default: both.",
)
@device_option
def bless(recipes: Sequence[str], folder: Path, backends: Sequence[str], device: str) -> int:
    """Record golden traces, by which `lockstep upgrade-check` tells what a later version changes.

    RECIPES are TOML files or ready-made names; default: a small set that has one of each kind.
    Where a backend does not agree with the oracle, nothing is written and the exit status is 1.
    """
    from lockstep.golden import Golden
    from lockstep.recipe import load_recipe
    from lockstep.report.progress import training_progress
    from lockstep.studies.upgrade.bless import bless as record
    from lockstep.studies.upgrade.bless import golden_recipes

    chosen = {} if recipes else golden_recipes()
    for recipe in recipes:
        name = Path(recipe).stem
        if name in chosen:
            raise InputError(f"{recipe}: there is another recipe {name}; rename one")
        chosen[name] = load_recipe(recipe)
    with training_progress() as report:
        diverged = record(folder, chosen, backends or BACKENDS, device=device, report=report)
    if diverged:
        return _tell_diverged(diverged)
    golden = Golden.load(folder)
    echo(
        f"{folder}: {len(golden.recipes)} recipes, {len(golden.traces)} traces by "
        f"{', '.join(golden.backends)}"
    )
    return 0


@click.command("upgrade-check", short_help="Say what changed since the golden traces were blessed.")
@folder_argument
@recipe_option
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(TRAINERS),
    help="Check this backend alone; repeatable; default: all that were blessed.",
)
@device_option
@out_option
@click.option(
    "--bless", "blesses", is_flag=True, help="Then bless the new traces in place of the old ones."
)
def upgrade_check(
    folder: Path,
    names: Sequence[str],
    backends: Sequence[str],
    device: str,
    outs: Sequence[Path],
    blesses: bool,
) -> int:
    """Train the golden recipes of FOLDER (default: golden) with what is installed now, and say what
    changed.

    Each backend and stage gets a word: identical, rounding only, numeric mode changed, semantics
    changed, or fails. The exit status is 0 where nothing changed but rounding, 1 where more
    changed, 2 where the golden files cannot be used.
    """
    from lockstep.files.outputs import write_file
    from lockstep.golden import Golden
    from lockstep.report.console import make_console
    from lockstep.report.progress import training_progress
    from lockstep.report.upgrade import KINDS, print_upgrade, upgrade_json, upgrade_markdown
    from lockstep.studies.upgrade.bless import bless as record
    from lockstep.studies.upgrade.compare_releases import check_upgrade

    _check_outputs(outs, KINDS)
    if blesses and (names or backends):
        raise InputError(
            "--bless: blesses all of a golden folder; leave out --recipe and --backend"
        )
    golden = Golden.load(folder)
    with training_progress() as report:
        upgrade = check_upgrade(golden.only(names), backends, device=device, report=report)
    print_upgrade(upgrade, str(folder), make_console())
    for out in outs:
        if out.suffix == ".json":
            text = upgrade_json(upgrade)
        else:
            text = upgrade_markdown(upgrade, str(folder))
        write_file(out, printable(text, LAYOUT).encode(), KINDS[out.suffix])
        echo(f"wrote {out}")
    if blesses:
        if upgrade.skipped:
            raise InputError(
                f"--bless: {', '.join(upgrade.skipped)} is not installed, and its traces "
                "would be lost"
            )
        others = [backend for backend in golden.backends if backend != "oracle"]
        with training_progress() as report:
            diverged = record(folder, golden.recipes, others, device=device, report=report)
        if diverged:
            return _tell_diverged(diverged)
        echo(f"blessed {folder} anew")
        return 0
    return upgrade.change.exit_status


def _versions_option(package: str) -> Callable[..., Any]:
    return click.option(
        f"--{package}", metavar="VERSION,...", default="", help=f"Versions of {package}."
    )


@click.command("matrix-versions", short_help="Say what other versions of the frameworks change.")
@_versions_option("jax")
@_versions_option("flax")
@_versions_option("optax")
@_versions_option("torch")
@click.option(
    "--zip",
    "together",
    is_flag=True,
    help="Combine first with first and second with second, not each with each.",
)
@click.option(
    "--golden",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Compare with these golden traces; default: with the first combination.",
)
@recipe_option
@click.option(
    "--bisect",
    "least",
    type=click.Choice(["change", "rounding", "none"]),
    default="change",
    show_default=True,
    help="The least change to trace to a package and a release; rounding: any change of bits.",
)
@click.option(
    "--atlas", is_flag=True, help="Run the pages of the atlas too, and say which traps moved."
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the environments in this folder, for the next time.",
)
@out_option
def matrix_versions(
    together: bool,
    folder: Path | None,
    names: Sequence[str],
    least: str,
    atlas: bool,
    keep: Path | None,
    outs: Sequence[Path],
    **packages: str,
) -> int:
    """Train with other versions of jax, flax, optax and torch, and say what each combination
    changes, and since when.

    Each combination is installed with pip into an environment of its own, which takes a minute and
    500 MB. A package that is not named is as it is here. The exit status is 1 where anything but
    rounding changes.
    """
    from lockstep.files.outputs import write_file
    from lockstep.golden import Golden, choose
    from lockstep.report.console import make_console
    from lockstep.report.progress import training_progress
    from lockstep.report.versions import KINDS, print_versions, versions_json, versions_markdown
    from lockstep.studies.atlas.pages import load_atlas
    from lockstep.studies.upgrade.bless import golden_recipes
    from lockstep.studies.upgrade.compare_releases import Change
    from lockstep.studies.upgrade.environments import combinations
    from lockstep.studies.upgrade.matrix import examiner, find_origins, golden_of

    _check_outputs(outs, KINDS)
    versions = {package: _split(text) for package, text in packages.items()}
    chosen = combinations(versions, together=together)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    with training_progress() as report:
        if folder is not None:
            golden = Golden.load(folder).only(names)
            against = str(folder)
        else:
            first_of_backend = {each.backend: each for each in reversed(chosen)}
            firsts = list(first_of_backend.values())
            golden = golden_of(choose(golden_recipes(), names), firsts, keep, report)
            against = " and ".join(combination.label for combination in firsts)
        examine = examiner(golden, keep, report, load_atlas() if atlas else ())
        rows = [examine(combination) for combination in chosen]
        origins = []
        if least != "none":
            lowest = Change.ROUNDING if least == "rounding" else Change.MODE
            origins = list(find_origins(rows, examine, least=lowest))
    print_versions(rows, origins, against, make_console())
    for out in outs:
        as_text = versions_json if out.suffix == ".json" else versions_markdown
        text = as_text(rows, origins, against)
        write_file(out, printable(text, LAYOUT).encode(), KINDS[out.suffix])
        echo(f"wrote {out}")
    if not any(row.findings for row in rows):
        raise InputError("no combination could be installed: nothing was compared")
    return max(row.change for row in rows).exit_status


def _split(text: str) -> list[str]:
    """The versions in a list with commas."""
    return [version.strip() for version in text.split(",") if version.strip()]


def _tell_diverged(diverged: "Mapping[Key, str]") -> int:
    for key, text in diverged.items():
        echo(
            f"{key.recipe}, {key.dtype}, {key.backend} is not what the oracle trains: {text}",
            err=True,
        )
    echo(f"nothing is blessed: {len(diverged)} traces diverge from the oracle", err=True)
    return 1


def _check_outputs(outs: Sequence[Path], kinds: "Mapping[str, Kind]") -> None:
    from lockstep.files.outputs import check_output

    for out in outs:
        if out.suffix not in kinds:
            raise InputError(f"--out {out}: must end in {' or '.join(kinds)}")
        check_output(out, kinds[out.suffix], option="--out")
