"""Commands that time."""

from collections.abc import Sequence
from pathlib import Path

import click

from lockstep.commands.options import chosen_recipe, device_option, recipe_options

__all__ = ["bench"]


@click.command()
@click.argument("recipe", default="seed")
@recipe_options
@device_option
@click.option("--rounds", type=click.IntRange(min=3), default=7, show_default=True, help="Times each is measured.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON too.")
def bench(
    recipe: str,
    data_path: str | None,
    target: str | None,
    overrides: Sequence[str],
    device: str,
    rounds: int,
    out: Path | None,
) -> int:
    """Time both backends on RECIPE: step by step and the whole run compiled."""
    from benchmarks.bench import run_bench
    from lockstep.report.console import make_console

    return run_bench(
        chosen_recipe(recipe, data_path, target, overrides),
        device=device,
        rounds=rounds,
        out=out,
        console=make_console(),
    )
