"""The command that explains why two traces part."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockstep.commands.compare import (
    json_option,
    junit_option,
    load_pair,
    names_option,
    noise_option,
    refusals_in,
)
from lockstep.errors import InputError
from lockstep.printable import echo

if TYPE_CHECKING:
    from lockstep.diagnose.diagnosis import Diagnosis
    from lockstep.diagnose.pairs import TracePair

__all__ = ["diagnose", "repro"]


@click.command(short_help="Say where two traces first part, who is off, and why.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--oracle",
    type=click.Path(path_type=Path),
    help="The oracle's trace; without it, the oracle is trained here.",
)
@click.option(
    "--replay",
    is_flag=True,
    help="Train a recipe's traces again, to record where they part in detail.",
)
@names_option
@noise_option
@junit_option
@json_option
def diagnose(
    a: Path,
    b: Path,
    oracle: Path | None,
    replay: bool,
    names_file: Path | None,
    noise: tuple[Path, ...],
    junit: Path | None,
    as_json: bool,
) -> int:
    """Say where the traces A and B first part, which of them is off, and why.

    The walk goes update by update through data, forward pass, loss, gradients, clipping, learning
    rate, moments, parameters and metrics. A cause is tested by computing the stage again as it
    would have it. The exit status is 0 where the traces are equal, 1 where they diverge, 2 where
    they cannot be compared, 3 where nothing diverges but not all can be judged.
    """
    from lockstep.diagnose.diagnosis import diagnose as explain
    from lockstep.diagnose.verdict import EXIT_STATUS
    from lockstep.files.outputs import check_output, write_file
    from lockstep.report.console import make_console
    from lockstep.report.diagnosis import print_diagnosis
    from lockstep.report.diagnosis_json import diagnosis_json
    from lockstep.report.junit import JUNIT, junit_comparison

    if junit is not None:
        check_output(junit, JUNIT, option="--junit", inputs=[a, b, oracle, names_file, *noise])
    names = str(a), str(b)
    reproduced = None
    with refusals_in(junit, names):
        pair = load_pair(a, b, names_file, noise, oracle)
        if replay and pair.oracle is None:
            raise InputError(
                "--replay: a loop of your own cannot be run from here; record it with a `window`"
            )
        diagnosis = explain(pair.a, pair.b, pair.oracle, bounds=pair.bounds)
        if replay:
            updates = set(diagnosis.needs)
            if diagnosis.first is not None:
                updates.add(diagnosis.first.update)
            diagnosis, reproduced = _diagnose_replayed(pair, updates - {-1})
    notes = pair.notes_on(diagnosis.verdict)
    if as_json:
        echo(diagnosis_json(diagnosis, names, notes=notes, replayed=reproduced), nl=False)
    else:
        print_diagnosis(diagnosis, names, make_console(), notes=notes, replayed=reproduced)
    if junit is not None:
        (first, second), comparison = diagnosis.deciding
        files = {"a": names[0], "b": names[1], "oracle": "oracle"}
        suite = junit_comparison(comparison, (files[first], files[second]), diagnosis.operation)
        write_file(junit, suite, JUNIT)
    return EXIT_STATUS[diagnosis.verdict]


@click.command(short_help="Write a small script that shows where two traces part.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="The folder to make; where it exists, the name gets a number.",
)
@names_option
@noise_option
def repro(a: Path, b: Path, out: Path, names_file: Path | None, noise: tuple[Path, ...]) -> int:
    """Write a script and its arrays that show where the traces A and B part, without lockstep.

    Attach the folder to a bug report. The script prints what both sides read there and what they
    give. Where a side was read off PyTorch, it computes the layer or the step again.
    """
    from lockstep.diagnose.diagnosis import diagnose as explain
    from lockstep.report.repro.folder import write_repro

    pair = load_pair(a, b, names_file, noise)
    diagnosis = explain(pair.a, pair.b, pair.oracle, bounds=pair.bounds)
    folder = write_repro(out, diagnosis, pair.a, pair.b, (a.name, b.name))
    echo(f"{folder}: repro.py and arrays.npz; run it with: python {folder / 'repro.py'}")
    return 0


def _diagnose_replayed(
    pair: "TracePair", updates: Collection[int]
) -> "tuple[Diagnosis, Mapping[str, bool]]":
    """Diagnose the pair with these updates trained again in detail.

    Returns:
        the diagnosis, and of each side whether it came out as it was recorded. A side that did not
        is judged by its record alone.
    """
    from lockstep.diagnose.diagnosis import diagnose as explain
    from lockstep.report.progress import training_progress
    from lockstep.run.replay import data_of, reproduces, truth_of, with_replayed
    from lockstep.run.replay import replay as train_again

    assert pair.oracle is not None
    traces = {"a": pair.a, "b": pair.b}
    data = data_of(pair.a)
    with training_progress() as report:
        replayed = train_again(traces, data, detail=updates, report=report)
        one_thread = train_again(traces, data, detail=updates, report=report, threads=1)
    reproduced = {}
    reruns = {}
    for side, trace in replayed.items():
        reproduced[side] = reproduces(trace, traces[side], pair.oracle)
        if reproduced[side]:
            traces[side] = with_replayed(traces[side], trace)
            reruns[side] = [one_thread[side]]
    truth = truth_of(traces["a"], traces["b"], data)
    return explain(traces["a"], traces["b"], truth, reruns=reruns), reproduced
