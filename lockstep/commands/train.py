"""Commands that train, and the command that writes a checkpoint as another kind of file."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lockstep.backends import TRAINERS
from lockstep.commands.options import (
    FiniteFloat,
    chosen_recipe,
    device_option,
    engine_option,
    member_trainer,
    planting_trainer,
    recipe_files,
    recipe_options,
    trainer,
    twin,
    warn,
)
from lockstep.errors import InputError
from lockstep.printable import echo

if TYPE_CHECKING:
    from lockstep.data_prep import PreparedData
    from lockstep.diagnose.verdict import Failure
    from lockstep.records.checkpoint import Checkpoint

__all__ = ["convert", "record", "run", "worker"]


@click.command(short_help="Train a recipe everywhere and show what happened.")
@click.argument("recipe", default="seed")
@recipe_options
@device_option
@engine_option
@click.option(
    "--out",
    metavar="FOLDER",
    help="The run folder; default runs/<recipe>. A folder that exists is kept.",
)
def run(
    recipe: str,
    data_path: str | None,
    target: str | None,
    overrides: Sequence[str],
    device: str,
    engine: str,
    out: str | None,
) -> int:
    """Train RECIPE (a TOML file or a ready-made name; default: seed) everywhere and show what
    happened.

    The exit status is 0 where both do what the recipe says, 1 where one does not, 3 where nothing
    is wrong but not all of the training can be judged, as where it overflows.
    """
    from lockstep.run.team import Team

    chosen = chosen_recipe(recipe, data_path, target, overrides)
    name = Path(data_path).stem if data_path else Path(recipe).stem
    with Team(device=device, engine=engine) as team:  # before anything else is loaded
        from lockstep.diagnose.verdict import EXIT_STATUS
        from lockstep.report.console import make_console
        from lockstep.report.progress import training_progress
        from lockstep.report.run.folder import new_run_folder, write_reports
        from lockstep.report.run.terminal import print_story
        from lockstep.run.everywhere import train_everywhere

        with new_run_folder(Path(out) if out else Path("runs") / name) as folder:
            with training_progress() as report:
                trained = train_everywhere(
                    chosen, folder.partial, team, engine=engine, report=report
                )
            story = write_reports(trained, folder.partial)
    console = make_console()
    print_story(story, console)
    console.print(
        f"\nThe run folder is {folder.final}; open {folder.final / 'report.html'} in a browser.",
        soft_wrap=True,
    )
    if trained.verdict.failure is not None:
        command = _closer_look(folder.final, trained.verdict.failure)
        console.print(f"Where and why: {command}", soft_wrap=True)
    return EXIT_STATUS[trained.verdict.word]


def _closer_look(folder: Path, failure: "Failure") -> str:
    """The command that explains what failed, for a shell."""
    traces = folder if failure.form == "traces" else folder / "float64"
    twins = traces / "fast" if failure.form == "fast" else traces
    oracle = ["--oracle", str(traces / "oracle.trace")]
    replay = [] if failure.form == "fast" else ["--replay"]
    command = ["lockstep", "diagnose", str(twins / "torch.trace"), str(twins / "jax.trace")]
    return shlex.join([*command, *oracle, *replay])


@click.command()
@click.argument("recipe", default="seed")
@click.option("--backend", type=click.Choice(TRAINERS), required=True, help="What to train with.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The trace's file.",
)
@recipe_options
@device_option
@engine_option
@click.option(
    "--parameters-every",
    type=click.IntRange(min=0),
    default=0,
    metavar="UPDATES",
    help="Record the parameters after every so many updates too, not only at the ends of epochs.",
)
@click.option(
    "--detail",
    metavar="A:B[:K]",
    help="Record updates A to B (exclusive), or every K-th of them, from rows to moments, for "
    "`lockstep diagnose`.",
)
@click.option(
    "--statistics",
    is_flag=True,
    help="Record mean, root mean square and largest absolute value of every tensor at every "
    "update.",
)
@click.option(
    "--budget-mib",
    type=FiniteFloat(min=0, min_open=True),
    default=1024,
    show_default=True,
    help="Memory, in MiB, that detail and statistics may take.",
)
@click.option(
    "--synchronise",
    is_flag=True,
    help="Begin every update from the oracle's state, which shows what each update gets wrong by "
    "itself.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Write a checkpoint after every N updates; t.100.checkpoint lies beside t.trace.",
)
@click.option(
    "--checkpoint-unit",
    type=click.Choice(["update", "batch"]),
    default="update",
    show_default=True,
    help="What N counts; batches may end in the midst of an accumulation: t.100+1.checkpoint.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on from a checkpoint, whichever backend wrote it.",
)
def record(
    recipe: str,
    backend: str,
    out: Path,
    data_path: str | None,
    target: str | None,
    overrides: Sequence[str],
    device: str,
    engine: str,
    parameters_every: int,
    detail: str | None,
    statistics: bool,
    budget_mib: float,
    synchronise: bool,
    checkpoint_every: int | None,
    checkpoint_unit: Literal["update", "batch"],
    resume: Path | None,
) -> int:
    """Train RECIPE with one backend and write its trace."""
    from lockstep.data_prep.row_cache import prepare_cached
    from lockstep.files.outputs import check_output
    from lockstep.records.checkpoint import Checkpoint, Checkpoints, file_beside
    from lockstep.records.run_recorder import Watch
    from lockstep.records.trace import TRACE
    from lockstep.report.progress import training_progress

    chosen = chosen_recipe(recipe, data_path, target, overrides)
    inputs = [*recipe_files(recipe, chosen), resume]
    check_output(out, TRACE, option="--out", inputs=inputs)
    if checkpoint_unit == "batch" and checkpoint_every is None:
        raise InputError("--checkpoint-unit batch: belongs to --checkpoint-every N")
    if resume is not None and synchronise:
        raise InputError(
            "--resume: goes on from one state, and --synchronise begins every update from another"
        )
    begun = Checkpoint.load(resume) if resume is not None else None
    train = trainer(backend, engine)
    _, data = prepare_cached(chosen)
    warn(data.warnings)
    window = _updates(detail, data.updates) if detail is not None else range(0)
    written: list[Path] = []
    checkpoints = None
    if checkpoint_every:
        _check_checkpoint_files(out, data, checkpoint_every, checkpoint_unit, begun, inputs)

        def save(checkpoint: Checkpoint) -> None:
            written.append(file_beside(out, checkpoint.update, checkpoint.accumulated))
            checkpoint.save(written[-1])

        checkpoints = Checkpoints(checkpoint_every, checkpoint_unit, save)
    exact_states = None
    if synchronise:
        from lockstep.oracle.train import states

        exact_states = states(chosen, data)
    with training_progress() as report:
        watch = Watch(
            parameters_every=parameters_every,
            detail=window,
            statistics=statistics,
            budget_mib=budget_mib,
            checkpoints=checkpoints,
            resume=begun,
            synchronise=exact_states,
            progress=lambda update, total: report(backend, update, total),
        )
        trace = train(chosen, data, device=device, watch=watch)
    trace.save(out)
    loss = trace.metric("train_loss")[-1]
    updates = (
        f"updates {trace.first_update} to {data.updates}" if begun else f"{data.updates} updates"
    )
    if written:
        echo(f"{len(written)} checkpoints, {written[0]} to {written[-1].name}")
    by = f", engine {trace.engine}" if trace.engine else ""
    echo(f"{out}: {backend}{by}, {updates}, training loss {loss:.6g}, data {data.hash[:12]}")
    return 0


def _check_checkpoint_files(
    out: Path,
    data: "PreparedData",
    every: int,
    unit: Literal["update", "batch"],
    begun: "Checkpoint | None",
    inputs: Sequence[Path | None],
) -> None:
    """Refuse, before training, checkpoint files that cannot be written beside the trace `out`."""
    from lockstep.files.outputs import check_outputs
    from lockstep.records.checkpoint import CHECKPOINT, file_beside, places_due

    places = places_due(data, every, unit, begun.batches if begun else 0)
    files = [file_beside(out, place["update"], place["accumulated"]) for place in places]
    check_outputs(files, CHECKPOINT, option="--checkpoint-every", inputs=inputs)


def _updates(text: str, total: int) -> range:
    """The updates of A:B or A:B:K."""
    parts = text.split(":")
    if len(parts) in (2, 3) and all(part.isdecimal() for part in parts):
        begin, end, every = (*map(int, parts), 1)[:3]
        if begin < end <= total and every:
            return range(begin, end, every)
    raise InputError(
        f"--detail {text}: must be A:B or A:B:K with A < B of the run's {total} updates, "
        "counted from 0"
    )


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    help="What is trained; a lockstep checkpoint says so itself.",
)
@recipe_options
@click.option(
    "--update",
    type=click.IntRange(min=0),
    metavar="N",
    help="Updates done, where SOURCE does not say.",
)
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

    The ends of the names say the kinds: .checkpoint is lockstep's, .pt and .safetensors are
    PyTorch's state_dict, .msgpack and an Orbax folder are Flax's. Bits are kept and kernels
    transposed. Names that are missing, extra or ambiguous are refused.
    """
    from lockstep.data_prep import prepare
    from lockstep.records.convert import convert as write_as

    chosen = None
    if recipe or overrides or data_path or target:
        chosen = chosen_recipe(recipe or "seed", data_path, target, overrides)
    checkpoint = write_as(source, out, chosen, prepare, update)
    if checkpoint.header.get("model_only") or out.suffix == ".safetensors":
        echo(f"{out}: the model alone")
    else:
        echo(f"{out}: all of it, {checkpoint.update} updates done")
    return 0


@click.command(hidden=True)
@click.argument("backend", type=click.Choice(TRAINERS))
@device_option
@click.option(
    "--plants",
    type=click.Choice(["twin", "library"]),
    help="Plant faults; see `lockstep.studies.prove`.",
)
@click.option("--members", is_flag=True, help="Train many seeds at once.")
@click.option("--engine", type=click.Choice(["auto", "plain", "fast"]), default="plain")
def worker(backend: str, device: str, plants: str | None, members: bool, engine: str) -> int:
    """Train what standard input says; see `lockstep.run.workers`."""
    from lockstep.run.workers import serve

    def load() -> Callable[..., Any]:
        if backend == "torch" and not (members or plants):
            twin("torch", "pt_impl.io.eager").spare_compiler()
        if members:
            return member_trainer(backend, engine)
        return planting_trainer(backend, engine, plants) if plants else trainer(backend, engine)

    return serve(load, device, sys.stdin, sys.stdout)
