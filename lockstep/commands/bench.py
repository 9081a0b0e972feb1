"""Commands that time."""

from collections.abc import Sequence
from pathlib import Path

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
    help="Groups to time beside the twins: keras, lightning, skorch, sklearn, numpy, c, products, "
    "compiled, recording (the fast engines without recording), micro (parts of an update alone); "
    "or all.",
)
@click.option(
    "--rounds",
    type=click.IntRange(3, 10_000),
    default=7,
    show_default=True,
    help="How often each contender is timed.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures as JSON too."
)
@click.option(
    "--sweep",
    type=click.Choice(["batch", "width", "depth", "updates", "seeds"]),
    help="Time the fast engines and floors as one size grows; --out may be a .png or .html too.",
)
@click.option(
    "--compare",
    "compared",
    nargs=2,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OLD NEW",
    help="Say what became faster or slower between two files of --out; nothing is measured.",
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
    """Time both backends and others; each is first proved to train the same.

    A workload is W1 (the default recipe), W1-adamw, W2 (as large as MNIST), W3 (256 seeds of W1)
    or any RECIPE.
    """
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
        old, new = compared
        return print_changes(changes(Results.load(old), Results.load(new)), make_console())
    chosen = []
    for name in workloads or ("W1",):
        if name in WORKLOADS and data_path is None and target is None:
            chosen.append(find_workload(name, overrides))
        else:
            chosen.append(Workload(name, chosen_recipe(name, data_path, target, overrides)))
    console = make_console()
    if sweep is None:
        groups = _groups(against)
        return run_bench(
            chosen, against=groups, device=device, rounds=rounds, out=out, console=console
        )
    if len(chosen) > 1:
        raise InputError("--sweep: one workload at a time")
    return run_sweep(chosen[0], sweep, device=device, rounds=rounds, out=out, console=console)


def _groups(against: str) -> tuple[str, ...]:
    from lockstep.bench.registry import GROUPS

    names = tuple(name.strip() for name in against.split(",") if name.strip())
    if names == ("all",):
        return GROUPS
    if not names:
        raise InputError(
            f"--against {against!r}: names no group; there are {', '.join(GROUPS)}, and all"
        )
    for name in names:
        if name not in GROUPS:
            raise InputError(
                f"--against {name}: no such group; there are {', '.join(GROUPS)}, and all"
            )
    return names
