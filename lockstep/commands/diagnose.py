"""The command that explains why two traces part."""

from pathlib import Path

import click

from lockstep.commands.compare import (
    junit_option,
    load_pair,
    names_option,
    noise_option,
    refusals_in,
)
from lockstep.errors import InputError

__all__ = ["diagnose"]


@click.command(short_help="Say where two traces first part, who is off, and why.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--oracle",
    type=click.Path(path_type=Path),
    help="The oracle's trace; trained here if it is not given.",
)
@click.option(
    "--replay",
    is_flag=True,
    help="Train a recipe's traces again, to record where they part in detail.",
)
@names_option
@noise_option
@junit_option
def diagnose(
    a: Path,
    b: Path,
    oracle: Path | None,
    replay: bool,
    names_file: Path | None,
    noise: tuple[Path, ...],
    junit: Path | None,
) -> int:
    """Say where the traces A and B first part, which of them is off, and why.

    Walks update by update through data, forward pass, loss, gradients, clipping, learning rate,
    moments, parameters and metrics; causes are tested by computing the stage again as they would
    have it. Exits with 0 where the traces are equal, 1 where they diverge, 2 where they cannot be
    compared, 3 where nothing diverges but not all can be judged.
    """
    from lockstep.diagnose.diagnosis import diagnose as explain
    from lockstep.diagnose.verdict import EXIT_STATUS
    from lockstep.files.outputs import check_output, write_file
    from lockstep.report.console import make_console
    from lockstep.report.diagnosis import print_diagnosis
    from lockstep.report.junit import JUNIT, junit_comparison
    from lockstep.report.progress import training_progress
    from lockstep.run.replay import data_of, reproduces, truth_of, with_replayed
    from lockstep.run.replay import replay as train_again

    if junit is not None:
        check_output(junit, JUNIT, option="--junit", inputs=[a, b, oracle, names_file, *noise])
    names, same = (str(a), str(b)), None
    with refusals_in(junit, names):
        pair = load_pair(a, b, names_file, noise, oracle)
        if replay and pair.oracle is None:
            raise InputError(
                "--replay: a loop of your own cannot be run from here; record it with a `window`"
            )
        found = explain(pair.a, pair.b, pair.oracle, bounds=pair.bounds)
        if replay and pair.oracle is not None:
            traces, data = {"a": pair.a, "b": pair.b}, data_of(pair.a)
            window = {*found.needs, *({found.first.update} if found.first else ())} - {-1}
            with training_progress() as report:
                again = train_again(traces, data, detail=window, report=report)
                alone = train_again(traces, data, detail=window, report=report, threads=1)
            same = {
                side: reproduces(trace, traces[side], pair.oracle) for side, trace in again.items()
            }
            # a side that does not come out as it was recorded is judged by its record alone
            traces |= {
                side: with_replayed(traces[side], trace)
                for side, trace in again.items()
                if same[side]
            }
            reruns = {side: [trace] for side, trace in alone.items() if same[side]}
            truth = truth_of(traces["a"], traces["b"], data)
            found = explain(traces["a"], traces["b"], truth, reruns=reruns)
    print_diagnosis(found, names, make_console(), notes=pair.notes, replayed=same)
    if junit is not None:
        (first, second), comparison = found.deciding
        files = {"a": names[0], "b": names[1], "oracle": "oracle"}
        write_file(junit, junit_comparison(comparison, (files[first], files[second])), JUNIT)
    return EXIT_STATUS[found.verdict]
