"""The options that commands share, and the recipes and trainers that they stand for."""

import math
import os
import platform
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lockstep.backends import TWINS
from lockstep.errors import InputError
from lockstep.printable import echo
from lockstep.run.trainers import load_trainer, twin

if TYPE_CHECKING:
    from lockstep.data_prep import PreparedData
    from lockstep.recipe import Recipe
    from lockstep.records.ensemble import Ensemble
    from lockstep.records.trace import Progress, Trace

__all__ = [
    "FiniteFloat",
    "chosen_recipe",
    "device_option",
    "engine_option",
    "keep_compiled",
    "member_trainer",
    "planting_trainer",
    "recipe_files",
    "recipe_options",
    "set_option",
    "trainer",
    "twin",
    "warn",
]

DAMAGED = re.compile(
    r"Error (?:read|writ)ing persistent compilation cache entry for '(?P<module>[^']*)'"
)
"""JAX's warning of a damaged cache entry. JAX goes on without the entry and leaves it as it is."""

device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "gpu", "auto"]),
    default="cpu",
    show_default=True,
    help="Where to train.",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "plain", "fast"]),
    default="auto",
    show_default=True,
    help="plain: the framework as people write it; fast: the same mathematics with less between "
    "the updates; auto: fast where it can.",
)


class FiniteFloat(click.FloatRange):
    """A finite number in a range. Click alone takes NaN and infinity for members of every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Override a recipe field: schedule.warmup=3.",
)
DATA_FIELDS = ("data.source", "data.path", "data.target")
data_options = (
    click.option(
        "--data",
        "data_path",
        metavar="FILE",
        help="Train on your own .csv, .tsv, .parquet or .npz.",
    ),
    click.option(
        "--target",
        metavar="COLUMN",
        help="The column of --data to predict, a class or a number.",
    ),
)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to train."""
    for option in (set_option, *reversed(data_options)):
        command = option(command)
    return command


def chosen_recipe(
    recipe: str, data_path: str | None, target: str | None, overrides: Sequence[str]
) -> "Recipe":
    """The recipe that the options name.

    Raises:
        InputError: as `lockstep.recipe.load_recipe`, or --data without --target.
    """
    from lockstep.recipe import load_recipe

    loaded = load_recipe(recipe)
    if data_path is not None:
        if target is None:
            raise InputError(f"--data {data_path}: name the column to predict with --target COLUMN")
        _refuse_two_sources(overrides, DATA_FIELDS, f"--data {data_path} --target {target}")
        loaded = loaded.with_values(
            {
                "data.source": "file",
                "data.path": str(Path(data_path).resolve()),
                "data.target": target,
            }
        )
    elif target is not None:
        _refuse_two_sources(overrides, ("data.target",), f"--target {target}")
        loaded = loaded.with_values({"data.target": target})
    chosen = loaded.with_overrides(overrides)
    if target is not None and chosen.data.source != "file":
        raise InputError(
            f'--target {target}: belongs to --data FILE, and data.source is "{chosen.data.source}"'
        )
    return chosen


def _refuse_two_sources(overrides: Sequence[str], fields: Sequence[str], options: str) -> None:
    for override in overrides:
        if override.partition("=")[0].strip() in fields:
            raise InputError(f"{options} and --set {override}: two sources of data; give one")


def recipe_files(named: str, recipe: "Recipe") -> list[Path]:
    """The recipe's own file and those of its data; no output may replace one of them."""
    tables = [path for path in (recipe.data.path, recipe.data.holdout) if path]
    return [Path(named), *map(Path, tables)]


def keep_compiled() -> None:
    """Let JAX, which is not loaded yet, find what an earlier process compiled.

    The cache lies in the user's cache folder, one for each machine, because processors differ. What
    the user has set stays.
    """
    from lockstep.data_prep.row_cache import cache_folder

    cache = cache_folder("xla", platform.node())
    if cache is None:
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    if os.environ["JAX_COMPILATION_CACHE_DIR"] == str(cache):
        _replace_damaged(cache)


def _replace_damaged(cache: Path) -> None:
    """Remove a damaged cache entry where JAX would warn of it, so that it is compiled again.

    A process that is killed while it writes leaves such an entry.
    """
    show = warnings.showwarning

    def remove_or_show(message: Warning | str, *place: Any, **options: Any) -> None:
        damaged = DAMAGED.match(str(message))
        if damaged is None:
            show(message, *place, **options)
            return
        for entry in cache.glob(f"{escape(damaged['module'])}-*"):
            entry.unlink(missing_ok=True)

    warnings.showwarning = remove_or_show
    warnings.filterwarnings("always", DAMAGED.pattern)


def trainer(backend: str, engine: str) -> Callable[..., "Trace"]:
    """The `train` of torch, jax or oracle, with an engine.

    Raises:
        InputError: its framework is not installed, or there is no such engine.
    """
    if backend == "jax":
        keep_compiled()
    return load_trainer(backend, engine)


def member_trainer(backend: str, engine: str) -> Callable[..., "Ensemble"]:
    """The function that trains many members of torch or jax.

    Its `own` says who draws the initial parameters and the order of rows: the framework itself, or
    `lockstep.data_prep` for both alike.

    Raises:
        InputError: the framework is not installed.
    """
    train_alone = trainer(backend, "plain")
    ensemble = twin(backend, f"{TWINS[backend]}.fast.ensemble")
    draws = twin(backend, f"{TWINS[backend]}.io.draws")

    def train(
        recipe: "Recipe",
        data: "PreparedData",
        *,
        seeds: Sequence[int],
        own: bool,
        device: str,
        progress: "Progress",
    ) -> "Ensemble":
        from lockstep.data_prep import draw_member
        from lockstep.records.ensemble import one_by_one

        draw = draws.draw_member if own else draw_member
        members = [draw(recipe, data, seed) for seed in seeds]
        if engine == "plain":
            return one_by_one(
                partial(train_alone, device=device), recipe, members, progress, "--engine plain"
            )
        trained: Ensemble = ensemble.train_ensemble(
            recipe, members, device=device, progress=progress
        )
        return trained

    return train


def planting_trainer(
    backend: str, engine: str = "plain", place: str = "twin"
) -> Callable[..., "Trace"]:
    """The `train` of torch or jax that takes a fault to plant: in the "twin" or its "library"."""
    from lockstep.studies.prove.planting import planting, planting_in_library

    package = TWINS[backend]
    if place == "twin":
        return planting(trainer(backend, engine), twin(backend, f"{package}.proof.faults").planted)
    if backend == "jax":
        keep_compiled()
    return planting_in_library(package, engine)


def warn(messages: Sequence[str]) -> None:
    """Print warnings on standard error."""
    for message in messages:
        echo(f"warning: {message}", err=True)
