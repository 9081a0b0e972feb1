"""Commands that time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lockstep.commands.options import chosen_recipe, device_option, recipe_options
from lockstep.errors import InputError

__all__ = ["bench"]


@click.command(short_help="Time both backends and others, each first proved equal.")
@click.argument("workloads", nargs=-1, metavar="[W1|W2|W3|RECIPE]...")
@recipe_options
@device_option
@click.option(
    "--against",
    metavar="GROUP,...",
    default="c,products",
    show_default=True,
    help="Beside the twins: keras, lightning, skorch, sklearn, numpy, c, products, compiled, "
    "recording (the fast "
    "engines without it), micro (parts of an update alone); or all.",
)
@click.option(
    "--rounds",
    type=click.IntRange(3, 10_000),
    default=7,
    show_default=True,
    help="Times each is measured.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON too."
)
@click.option(
    "--sweep",
    type=click.Choice(["batch", "width", "depth", "updates", "seeds"]),
    help="The fast engines and the floors as one size grows; --out may be a .png or .html too.",
)
@click.option(
    "--compare",
    "compared",
    nargs=2,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OLD NEW",
    help="Measure nothing: say what became faster or slower between two files of --out.",
)
def bench(
    workloads: Sequence[str],
    data_path: str | None,
    target: str | None,
    overrides: Sequence[str],
    device: str,
    against: str,
    rounds: int,
    out: Path | None,
    sweep: str | None,
    compared: tuple[Path, Path] | None,
) -> int:
    """Time both backends, and others, on W1 (the default recipe), W1-adamw, W2 (as large as MNIST),
    W3 (256 seeds of W1) or any RECIPE; each is proved to train the same first."""
    from lockstep.bench.compare import changes, print_changes
    from lockstep.bench.results import Results
    from lockstep.bench.run import run_bench
    from lockstep.bench.sweep import run_sweep
    from lockstep.bench.workloads import WORKLOADS, Workload, find_workload
    from lockstep.report.console import make_console

    if compared is not None:
        if workloads or sweep or out or data_path or overrides:
            raise InputError(
                "--compare: measures nothing, and takes no workloads, --set, --data, "
                "--sweep or --out"
            )
        return print_changes(changes(*map(Results.load, compared)), make_console())
    chosen = []
    for name in workloads or ("W1",):
        if name in WORKLOADS and data_path is None and target is None:
            chosen.append(find_workload(name, overrides))
        else:
            chosen.append(Workload(name, chosen_recipe(name, data_path, target, overrides)))
    common: dict[str, Any] = {
        "device": device,
        "rounds": rounds,
        "out": out,
        "console": make_console(),
    }
    if sweep is None:
        return run_bench(chosen, against=_groups(against), **common)
    if len(chosen) > 1:
        raise InputError("--sweep: one workload at a time")
    return run_sweep(chosen[0], sweep, **common)


def _groups(against: str) -> tuple[str, ...]:
    from lockstep.bench.registry import GROUPS

    named = tuple(filter(None, (group.strip() for group in against.split(","))))
    if named == ("all",):
        return GROUPS
    if not named:
        raise InputError(
            f"--against {against!r}: names no group; there are {', '.join(GROUPS)}, and all"
        )
    for group in named:
        if group not in GROUPS:
            raise InputError(
                f"--against {group}: no such group; there are {', '.join(GROUPS)}, and all"
            )
    return named
