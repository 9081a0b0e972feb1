"""Commands that judge traces."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lockstep.errors import InputError
from lockstep.printable import echo, printable

if TYPE_CHECKING:
    from lockstep.diagnose.pairs import TracePair
    from lockstep.records.trace import Trace

__all__ = [
    "compare",
    "json_option",
    "junit_option",
    "load_pair",
    "names",
    "names_option",
    "noise_option",
    "refusals_in",
]

junit_option = click.option(
    "--junit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the result as JUnit XML too.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, for programs."
)

names_option = click.option(
    "--names",
    "names_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="For own loops: what B calls or lays out otherwise, as `lockstep names` writes it.",
)
noise_option = click.option(
    "--noise",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="TRACE",
    help="For own loops: a rerun of either side, or one with a perturbed start; repeatable.",
)


@click.command(short_help="Judge whether two traces, or two logs, do the same thing.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@names_option
@noise_option
@junit_option
@json_option
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=COLUMN",
    help="For logs: what a column is, as in loss=train/ce or step=it; repeatable.",
)
def compare(
    a: Path,
    b: Path,
    names_file: Path | None,
    noise: tuple[Path, ...],
    junit: Path | None,
    as_json: bool,
    columns: tuple[str, ...],
) -> int:
    """Judge two traces, of one recipe or of your own two loops: identical, rounding, diverged or
    inconclusive.

    Two logs are judged by the numbers that both have: CSV, JSON lines, TensorBoard's event files,
    exports of Weights & Biases, Hugging Face's trainer_state.json, or a folder that holds one of
    these; a trace stands for a log beside one.

    The exit status is 0 where they are equal, 1 where they diverge, 2 where they cannot be
    compared, 3 where nothing diverges but not all can be judged.
    """
    from lockstep.logs.read import is_trace

    if not (is_trace(a) and is_trace(b)):
        others = {"--names": names_file, "--noise": noise, "--junit": junit}
        return _compare_logs(a, b, columns, others, as_json=as_json)
    if columns:
        raise InputError("--column: names columns of logs, and these are traces")
    from lockstep.diagnose import compare as diagnose
    from lockstep.diagnose.diagnosis import unequal_settings
    from lockstep.diagnose.verdict import EXIT_STATUS
    from lockstep.files.outputs import check_output, write_file
    from lockstep.report.console import make_console, print_comparison
    from lockstep.report.diagnosis_json import comparison_json
    from lockstep.report.junit import JUNIT, junit_comparison

    if junit is not None:
        check_output(junit, JUNIT, option="--junit", inputs=[a, b, names_file, *noise])
    sides = str(a), str(b)
    with refusals_in(junit, sides):
        pair = load_pair(a, b, names_file, noise)
        comparison = diagnose.compare(pair.a, pair.b, pair.bounds)
    # a recipe's runs share their settings; own loops may be set as they like
    unequal = unequal_settings(pair.a, pair.b) if pair.oracle is None else ()
    notes = pair.notes_on(comparison.verdict)
    if as_json:
        echo(comparison_json(comparison, sides, notes=notes, unequal=unequal), nl=False)
    else:
        for name, *values in unequal:
            echo(f"set differently: {printable(name)}: {' and '.join(map(printable, values))}")
        for note in notes:
            echo(printable(note))
        print_comparison(comparison, sides, make_console())
    if junit is not None:
        write_file(junit, junit_comparison(comparison, sides), JUNIT)
    return EXIT_STATUS[comparison.verdict]


def _compare_logs(
    a: Path, b: Path, columns: tuple[str, ...], others: Mapping[str, object], *, as_json: bool
) -> int:
    """Judge two logs, print the result and return the exit status."""
    from lockstep.diagnose.logs.judge import EXIT_STATUS, compare_logs
    from lockstep.logs.read import read_log
    from lockstep.report.console import make_console
    from lockstep.report.logs import logs_json, print_logs

    for option, value in others.items():
        if value:
            raise InputError(f"{option}: is for two traces, and these are logs")
    given: dict[str, list[str]] = {}
    for text in columns:
        name, _, column = text.partition("=")
        if not name or not column:
            raise InputError(f"--column {text}: must be NAME=COLUMN, as in loss=train/ce")
        given.setdefault(name, []).append(column)
    logs = read_log(a, given), read_log(b, given)
    for name, candidates in given.items():
        for column in candidates:
            if not any(column in log.columns for log in logs):
                raise InputError(f"--column {name}={column}: neither log has that column")
    comparison = compare_logs(*logs)
    if as_json:
        echo(logs_json(comparison), nl=False)
    else:
        print_logs(comparison, make_console())
    return EXIT_STATUS[comparison.verdict]


@click.command(short_help="Propose which names of one loop are which of the other.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The TOML file to write.",
)
@click.option(
    "--given",
    "settled",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A name map with lines that are settled already.",
)
def names(a: Path, b: Path, out: Path, settled: Path | None) -> int:
    """Propose which of B's names and layouts are which of A's, for two traces of your own loops.

    The proposal follows from values, shapes, kinds, the order of calls and names of the initial
    parameters, and takes what these leave no choice of. What is left open stands in the file as
    comments; settle it there, or in a file of your own for --given.
    """
    from lockstep.diagnose.names import load_names, save_names
    from lockstep.diagnose.propose import propose
    from lockstep.files.outputs import NEW, check_output
    from lockstep.records.trace import Trace
    from lockstep.report.proposal import describe_proposal

    check_output(out, NEW, option="--out", inputs=[a, b, settled])
    known = load_names(settled) if settled else None
    proposal = propose(Trace.load(a), Trace.load(b), known)
    save_names(out, proposal.names, proposal.reasons, proposal.remarks)
    for line in describe_proposal(proposal):
        echo(printable(line))
    return 0


@contextmanager
def refusals_in(junit: Path | None, sides: tuple[str, str]) -> Iterator[None]:
    """Write a refusal to the JUnit file too, so that nobody takes an older result for this one."""
    from lockstep.files.outputs import write_file
    from lockstep.report.junit import JUNIT, junit_error

    try:
        yield
    except InputError as error:
        if junit is not None:
            write_file(junit, junit_error(str(error), sides), JUNIT)
        raise


def load_pair(
    a: Path,
    b: Path,
    names_file: Path | None = None,
    noise: tuple[Path, ...] = (),
    oracle: Path | None = None,
) -> "TracePair":
    """The traces in these files, aligned where they are of somebody's own loops.

    Args:
        a: one trace.
        b: the other.
        names_file: the name map of own loops.
        noise: reruns or perturbed runs of own loops.
        oracle: the oracle's trace of the recipe. Where this is None and neither side is one, the
            oracle is trained.

    Raises:
        InputError: a trace cannot be read, the two cannot be compared, or an argument for own loops
            stands beside a recipe's traces, or the other way round.
    """
    from lockstep.diagnose.pairs import make_pair
    from lockstep.records.trace import Trace

    return make_pair(
        Trace.load(a),
        Trace.load(b),
        oracle=_load_oracle(oracle) if oracle else None,
        names=names_file,
        noise=[Trace.load(path) for path in noise],
    )


def _load_oracle(path: Path) -> "Trace":
    """The oracle's trace in a file.

    Raises:
        InputError: the trace is somebody else's, or has no rounding bounds.
    """
    from lockstep.diagnose.compare import bounds_of
    from lockstep.diagnose.loops import is_loop
    from lockstep.records.trace import Trace

    trace = Trace.load(path)
    leave_out = "leave --oracle out, and it is trained here"
    if is_loop(trace) or trace.backend != "oracle":
        raise InputError(
            f"--oracle {path}: is {trace.backend}'s trace, not the oracle's; {leave_out}"
        )
    if bounds_of(trace) is None:
        raise InputError(f"--oracle {path}: has no rounding bounds to judge by; {leave_out}")
    return trace
