"""The commands. The only room of the core that reaches for the twins, and only when a command needs one."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lockstep import __version__
from lockstep.errors import InputError

if TYPE_CHECKING:
    from lockstep.curve import Curve
    from lockstep.recipe import Recipe
    from lockstep.trace import Trace

__all__ = ["main"]

TRAINERS = {"torch": "pt_impl.train", "jax": "jax_impl.train", "oracle": "lockstep.oracle.train"}

device_option = click.option(
    "--device", type=click.Choice(["cpu", "gpu", "auto"]), default="cpu", show_default=True, help="Where to train."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a recipe field: schedule.warmup=3."
)
data_options = (
    click.option("--data", "data_path", metavar="FILE", help="Train on your own .csv, .parquet or .npz."),
    click.option("--target", metavar="COLUMN", help="With --data: the column to predict, a class or a number."),
)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to train."""
    for option in (set_option, *reversed(data_options)):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lockstep")
def cli() -> None:
    """Train one recipe in PyTorch and in JAX, and say whether the two do the same thing."""


@cli.command()
@click.argument("recipe", default="seed")
@recipe_options
@device_option
@click.option("--out", metavar="FOLDER", help="The run folder; default runs/<recipe>. One that exists is kept.")
def run(
    recipe: str, data_path: str | None, target: str | None, overrides: Sequence[str], device: str, out: str | None
) -> int:
    """Train RECIPE (a TOML file or a ready-made name; default: seed) everywhere and show what happened.

    Exits with 1 where the two frameworks part.
    """
    from lockstep.report.console import make_console, training_progress
    from lockstep.report.folder import new_run_folder, write_reports
    from lockstep.report.terminal import print_story
    from lockstep.session import train_everywhere

    chosen = _recipe(recipe, data_path, target, overrides)
    name = Path(data_path).stem if data_path else Path(recipe).stem
    with new_run_folder(Path(out) if out else Path("runs") / name) as folder:
        with training_progress() as report:
            found = train_everywhere(chosen, folder.partial, device=device, report=report)
        story = write_reports(found, folder.partial)
    console = make_console()
    print_story(story, console)
    console.print(
        f"\nThe run folder is {folder.final}; open {folder.final / 'report.html'} in a browser.", soft_wrap=True
    )
    return 1 if found.verdict.word == "diverged" else 0


@cli.command()
@click.argument("recipe", default="seed")
@click.option("--backend", type=click.Choice([*TRAINERS]), required=True, help="What to train with.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The trace's file.")
@recipe_options
@device_option
@click.option(
    "--parameters-every",
    type=click.IntRange(min=0),
    default=0,
    metavar="UPDATES",
    help="Record the parameters after every so many updates too, not at epoch ends only.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Write a checkpoint beside the trace after every N updates: <out>.<update>.checkpoint.",
)
@click.option(
    "--checkpoint-unit",
    type=click.Choice(["update", "batch"]),
    default="update",
    show_default=True,
    help="What N counts; batches stop in the midst of an accumulation too: <out>.<update>+<batches>.checkpoint.",
)
@click.option("--resume", type=click.Path(path_type=Path), help="Go on from a checkpoint, whichever backend wrote it.")
def record(
    recipe: str,
    backend: str,
    out: Path,
    data_path: str | None,
    target: str | None,
    overrides: Sequence[str],
    device: str,
    parameters_every: int,
    checkpoint_every: int | None,
    checkpoint_unit: Literal["update", "batch"],
    resume: Path | None,
) -> int:
    """Train RECIPE with one backend and write its trace."""
    from lockstep.checkpoint import Checkpoint, Checkpoints
    from lockstep.data_prep import prepare
    from lockstep.report.console import training_progress

    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}")
    chosen = _recipe(recipe, data_path, target, overrides)
    begun = Checkpoint.load(resume) if resume is not None else None
    train = _trainer(backend)
    data = prepare(chosen)
    _warn(data.warnings)
    written: list[Path] = []

    def save(checkpoint: Checkpoint) -> None:
        place = f"{checkpoint.update}" + f"+{checkpoint.accumulated}" * bool(checkpoint.accumulated)
        written.append(out.with_name(f"{out.stem}.{place}.checkpoint"))
        checkpoint.save(written[-1])

    with training_progress() as report:
        trace = train(
            chosen,
            data,
            device=device,
            parameters_every=parameters_every,
            progress=lambda done, total: report(backend, done, total),
            resume=begun,
            checkpoints=Checkpoints(checkpoint_every, checkpoint_unit, save) if checkpoint_every else None,
        )
    trace.save(out)
    loss = trace.metric("train_loss")[-1]
    did = f"updates {trace.first_update} to {data.updates}" if begun else f"{data.updates} updates"
    if written:
        click.echo(f"{len(written)} checkpoints, {written[0]} to {written[-1].name}")
    click.echo(f"{out}: {backend}, {did}, training loss {loss:.6g}, data {data.hash[:12]}")
    return 0


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipe", help="What is trained; where SOURCE is no lockstep checkpoint, which says so itself.")
@recipe_options
@click.option("--update", type=click.IntRange(min=0), metavar="N", help="Updates done, where SOURCE does not say.")
def convert(
    source: Path,
    out: Path,
    recipe: str | None,
    data_path: str | None,
    target: str | None,
    overrides: Sequence[str],
    update: int | None,
) -> int:
    """Write the checkpoint SOURCE as another kind of file, OUT.

    The names' ends say the kinds: .checkpoint is lockstep's, .pt and .safetensors are PyTorch's state_dict, .msgpack
    and an Orbax folder are Flax's. Bits are kept, kernels transposed; names that are missing, extra or ambiguous are
    refused.
    """
    from lockstep.convert import convert as write_as
    from lockstep.data_prep import prepare

    chosen = None
    if recipe or overrides or data_path or target:
        chosen = _recipe(recipe or "seed", data_path, target, overrides)
    found = write_as(source, out, chosen, prepare, update)
    model_only = found.header.get("model_only") or out.suffix == ".safetensors"
    click.echo(f"{out}: {'the model alone' if model_only else f'all of it, {found.update} updates done'}")
    return 0


@cli.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
def compare(a: Path, b: Path) -> int:
    """Judge two traces of one recipe: identical, rounding or diverged.

    Exits with 0 where they are equal, 1 where they diverge, 2 where they cannot be compared.
    """
    from lockstep.diagnose import compare as diagnose
    from lockstep.report.console import make_console, print_comparison
    from lockstep.trace import Trace

    traces = Trace.load(a), Trace.load(b)
    diagnose.refuse_different_runs(*traces)
    found = diagnose.compare(*traces, diagnose.bounds_of(*traces) or _derive_bounds(*traces))
    print_comparison(found, (str(a), str(b)), make_console())
    return 1 if found.verdict == "diverged" else 0


@cli.command()
@click.argument("words", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the table as Markdown too.")
@device_option
def matrix(words: Sequence[str], out: Path | None, device: str) -> int:
    """Train every schedule, optimizer, loss and layer in both frameworks and show how far each is from the oracle.

    WORDS choose rows: those whose group or name holds each of them. Exits with 1 where a row does not hold.
    """
    from lockstep.catalogue import entries
    from lockstep.matrix import measure
    from lockstep.report.console import make_console, training_progress
    from lockstep.report.matrix import matrix_markdown, print_matrix
    from lockstep.tensor_file import write_file

    every = entries()
    chosen = [entry for entry in every if all(word in f"{entry.group} {entry.name}" for word in words)]
    if not chosen:
        groups = ", ".join(dict.fromkeys(entry.group for entry in every))
        raise InputError(f"{' '.join(words)}: no row of the matrix holds that; its groups: {groups}")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}")
    with training_progress() as report:
        rows = measure(chosen, device=device, report=report)
    print_matrix(rows, make_console())
    if out is not None:
        write_file(out, matrix_markdown(rows).encode())
    return 0 if all(row.holds for row in rows) else 1


@cli.command()
@click.argument("recipe", required=False)
@click.option(
    "--preset", "presets", multiple=True, metavar="NAME[,KNOB=VALUE]", help="A library's schedule; repeatable."
)
@click.option("--peak", type=click.FloatRange(min=0, min_open=True), help="Of the presets; default 0.01.")
@click.option("--warmup", type=click.IntRange(min=0), help="Of the presets, in updates; default a tenth of the run.")
@click.option("--updates", type=click.IntRange(1, 10_000_000), help="Length of the run; default 1000, or the recipe's.")
@click.option("--length", type=click.IntRange(min=1), help="T of the presets, where it is not the run's.")
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
    """Show the learning rate of every update: of RECIPE, of libraries' schedules, or of several over one another.

    With RECIPE, the presets take peak, warmup and length of the run from it. `--preset hf.cosine` alone needs no
    recipe; `--preset list` names all.
    """
    from lockstep.curve import applied_rates, preset_curve
    from lockstep.presets import PRESETS
    from lockstep.report.console import make_console
    from lockstep.report.curve import SUFFIXES, print_curves, render
    from lockstep.tensor_file import write_file

    if "list" in presets:
        for name, preset in PRESETS["schedule"].items():
            click.echo(f"{name:36}{preset.source}\n{'':36}{', '.join(preset.free)}")
        return 0
    for out in outs:
        if out.suffix not in SUFFIXES:
            raise InputError(f"--out {out}: must end in {', '.join(SUFFIXES)}")
        if not out.parent.is_dir():
            raise InputError(f"--out {out}: no folder {out.parent}")
    curves = []
    if recipe is not None or not presets or overrides:
        curves.append(_recipe_curve(recipe or "seed", overrides, updates))
        peak = curves[0].recipe.schedule.peak if peak is None else peak
        warmup = curves[0].warmup if warmup is None else warmup
        updates = len(curves[0].rates_T)
    free = [
        PRESETS["schedule"][name].free for name in (p.split(",")[0] for p in presets) if name in PRESETS["schedule"]
    ]
    for knob, value in (("warmup", warmup), ("length", length)):
        if value is not None and recipe is None and free and not any(knob in having for having in free):
            raise InputError(f"--{knob} {value}: none of these presets has a {knob}")
    updates = updates or 1000
    warmup = updates // 10 if warmup is None else warmup
    curves += [preset_curve(name, peak=peak, warmup=warmup, updates=updates, length=length) for name in presets]
    if len(curves) > 26:
        raise InputError(f"--preset: at most 26 curves at a time, got {len(curves)}")
    applied = applied_rates(curves) if any(out.suffix == ".npz" for out in outs) else {}
    files = {out: render(out, curves, applied) for out in outs}
    print_curves(curves, make_console())
    for out, content in files.items():
        write_file(out, content)
        click.echo(f"wrote {out}")
    return 0


@cli.command(hidden=True)
@click.argument("backend", type=click.Choice(["torch", "jax"]))
@click.argument("tables", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def rates(backend: str, tables: Path, out: Path) -> int:
    """What a twin applies of each table of learning rates; see `lockstep.curve`."""
    import numpy as np

    apply = _twin(backend, f"{TRAINERS[backend].partition('.')[0]}.schedule").applied_rates
    np.save(out, np.stack([apply(table_T) for table_T in np.load(tables)]))
    return 0


@cli.group("recipe")
def recipe_group() -> None:
    """Show, start or check a recipe."""


@recipe_group.command("show")
@click.argument("recipe", default="seed")
@set_option
def recipe_show(recipe: str, overrides: Sequence[str]) -> int:
    """Print RECIPE with every field written out and explained, and its hash."""
    chosen = _recipe(recipe, None, None, overrides)
    click.echo(f"# hash {chosen.hash}\n")
    click.echo(chosen.to_toml(documented=True), nl=False)
    return 0


@recipe_group.command("init")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="recipe.toml")
@click.option("--from", "source", default="seed", metavar="RECIPE", help="The recipe to start from; default: seed.")
@set_option
def recipe_init(path: Path, source: str, overrides: Sequence[str]) -> int:
    """Write a recipe of your own to PATH (default: recipe.toml), every field explained; keeps a file that exists."""
    from lockstep.tensor_file import write_file

    chosen = _recipe(source, None, None, overrides)
    if path.exists():
        raise InputError(f"{path}: exists already, and is kept; name another file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {path.parent}")
    write_file(path, chosen.to_toml(documented=True).encode())
    click.echo(f"wrote {path}; train it with: lockstep run {path}")
    return 0


@recipe_group.command("check")
@click.argument("recipe", default="seed")
@recipe_options
def recipe_check(recipe: str, data_path: str | None, target: str | None, overrides: Sequence[str]) -> int:
    """Check RECIPE and its data without training."""
    from lockstep.data_prep import prepare
    from lockstep.report.targets import target_in_short
    from lockstep.schedules import learning_rates

    chosen = _recipe(recipe, data_path, target, overrides)
    data = prepare(chosen)
    rates = learning_rates(chosen, data.updates_per_epoch)
    _warn(data.warnings)
    rows, held_out = len(data.train_y_N), len(data.held_out_y_N)
    click.echo(
        f"good: {rows} rows to train on, {held_out} held out, {len(data.columns)} features, "
        f"{target_in_short(data)}, "
        f"{data.updates} updates, learning rate {rates.min():g} to {rates.max():g}\n"
        f"recipe {chosen.hash}\ndata   {data.hash}"
    )
    return 0


@cli.command()
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
        _recipe(recipe, data_path, target, overrides), device=device, rounds=rounds, out=out, console=make_console()
    )


@cli.command()
@click.argument("words", nargs=-1, metavar="[WORD]")
def atlas(words: Sequence[str]) -> int:
    """Look up a trap between the two frameworks: WORD in a page's text, or a recipe field; none lists all."""
    from lockstep.atlas import find_pages, load_atlas
    from lockstep.report.atlas import print_index, print_page
    from lockstep.report.console import make_console

    pages = load_atlas()
    found = find_pages(pages, words) if words else pages
    if len(found) == 1:
        print_page(found[0], make_console())
    else:
        print_index(found, make_console(), grouped=not words)
    return 0


@cli.command(hidden=True)
@click.argument("backend", type=click.Choice([*TRAINERS]))
@device_option
def worker(backend: str, device: str) -> int:
    """Train what standard input says; see `lockstep.session`."""
    from lockstep.session import serve, tell_error

    try:
        train = _trainer(backend)
    except InputError as error:
        tell_error(error, sys.stdout)
        return 2
    serve(train, device, sys.stdin, sys.stdout)
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: bad input is one line on standard error and exit status 2."""
    try:
        status = cli.main(args=arguments, prog_name="lockstep", standalone_mode=False)
    except InputError as error:
        status = _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = 2
    except click.ClickException as error:
        status = _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.echo("lockstep: stopped", err=True)
        status = 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left, and that is no fault
        status = 0
    sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str) -> int:
    click.echo("lockstep: " + " ".join(message.split()), err=True)
    return 2


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def _recipe(recipe: str, data_path: str | None, target: str | None, overrides: Sequence[str]) -> "Recipe":
    from lockstep.recipe import load_recipe

    loaded = load_recipe(recipe)
    if data_path is not None:
        if target is None:
            raise InputError(f"--data {data_path}: name the column to predict with --target COLUMN")
        loaded = loaded.with_values(
            {"data.source": "file", "data.path": str(Path(data_path).resolve()), "data.target": target}
        )
    elif target is not None:
        loaded = loaded.with_values({"data.target": target})
    return loaded.with_overrides(overrides)


def _recipe_curve(recipe: str, overrides: Sequence[str], updates: int | None) -> "Curve":
    from lockstep.curve import Curve
    from lockstep.data_prep import prepare

    chosen = _recipe(recipe, None, None, overrides)
    if updates is None:
        return Curve.of(recipe, chosen, prepare(chosen).updates_per_epoch)
    if chosen.schedule.unit == "epoch":
        raise InputError(f"--updates {updates}: the schedule of {recipe} counts epochs, whose updates its data gives")
    return Curve.of(recipe, chosen.with_values({"training.epochs": updates}), 1)


def _twin(backend: str, module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--backend {backend}: the package {error.name} is not installed: pip install 'lockstep[{backend}]'"
        ) from None


def _trainer(backend: str) -> Callable[..., "Trace"]:
    train: Callable[..., Trace] = _twin(backend, TRAINERS[backend]).train
    return train


def _derive_bounds(a: "Trace", b: "Trace") -> dict[str, Any]:
    from lockstep.data_prep import prepare
    from lockstep.oracle.rounding import rounding_bounds
    from lockstep.oracle.trajectory import rows_of

    data = prepare(a.recipe)
    if data.hash != a.header["data_hash"]:
        raise InputError(
            f"the data of these traces ({a.header['data_hash'][:12]}) cannot be prepared again here (found "
            f"{data.hash[:12]}): compare with an oracle's trace, which carries the rounding bounds"
        )
    recorded = set(a.recorded_updates) & set(b.recorded_updates)
    return rounding_bounds(a.recipe, rows_of(a.recipe, data), recorded)
