"""Commands about recipes."""

from collections.abc import Sequence
from pathlib import Path

import click

from lockstep.commands.options import chosen_recipe, recipe_options, set_option, warn
from lockstep.printable import echo, printable

__all__ = ["recipe_group"]


@click.group("recipe")
def recipe_group() -> None:
    """Show, start or check a recipe."""


@recipe_group.command("show")
@click.argument("recipe", default="seed")
@set_option
def recipe_show(recipe: str, overrides: Sequence[str]) -> int:
    """Print RECIPE with every field written out and explained, and its hash."""
    chosen = chosen_recipe(recipe, None, None, overrides)
    echo(f"# hash {chosen.hash}\n")
    echo(chosen.to_toml(documented=True), nl=False)
    return 0


@recipe_group.command("init")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="recipe.toml")
@click.option(
    "--from",
    "source",
    default="seed",
    metavar="RECIPE",
    help="The recipe to start from; default: seed.",
)
@set_option
def recipe_init(path: Path, source: str, overrides: Sequence[str]) -> int:
    """Write a recipe of your own to PATH (default: recipe.toml), with every field explained.

    A file that exists is kept.
    """
    from lockstep.files.outputs import NEW, check_output, write_file

    check_output(path, NEW)
    chosen = chosen_recipe(source, None, None, overrides)
    write_file(path, chosen.to_toml(documented=True).encode(), NEW)
    echo(f"wrote {path}; train it with: lockstep run {path}")
    return 0


@recipe_group.command("check")
@click.argument("recipe", default="seed")
@recipe_options
def recipe_check(
    recipe: str, data_path: str | None, target: str | None, overrides: Sequence[str]
) -> int:
    """Check RECIPE and its data without training."""
    from lockstep.data_prep import prepare
    from lockstep.report.run.targets import target_in_short
    from lockstep.schedules.formulas import learning_rates

    chosen = chosen_recipe(recipe, data_path, target, overrides)
    data = prepare(chosen)
    rates = learning_rates(chosen, data.updates_per_epoch)
    warn(data.warnings)
    for label, value in data.notes:
        echo(printable(f"{label}: {value}"))
    echo(
        f"good: {len(data.train_y_N)} rows to train on, {len(data.held_out_y_N)} held out, "
        f"{len(data.columns)} features, {target_in_short(data)}, {data.updates} updates, "
        f"learning rate {rates.min():g} to {rates.max():g}\n"
        f"recipe {chosen.hash}\ndata   {data.hash}"
    )
    return 0
