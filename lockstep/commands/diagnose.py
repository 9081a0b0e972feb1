"""The command that explains why two traces part."""

from pathlib import Path

import click

from lockstep.commands.compare import junit_option, refusals_in

__all__ = ["diagnose"]


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--oracle", type=click.Path(path_type=Path), help="The oracle's trace; trained here if it is not given.")
@click.option("--replay", is_flag=True, help="Train both again, to record where they part in detail.")
@junit_option
def diagnose(a: Path, b: Path, oracle: Path | None, replay: bool, junit: Path | None) -> int:
    """Say where the traces A and B first part, which of them is off, and why.

    Walks update by update through data, forward pass, loss, gradients, clipping, learning rate, moments, parameters and
    metrics; causes are tested by computing the stage again as they would have it. Exits with 0 where the traces are
    equal, 1 where they diverge, 2 where they cannot be compared.
    """
    from lockstep.diagnose.compare import refuse_different_runs
    from lockstep.diagnose.engine import diagnose as explain
    from lockstep.replay import data_of, reproduces, truth_of
    from lockstep.replay import replay as train_again
    from lockstep.report.console import make_console, training_progress
    from lockstep.report.diagnosis import print_diagnosis
    from lockstep.report.junit import junit_comparison
    from lockstep.tensor_file import write_file
    from lockstep.trace import Trace

    names, same = (str(a), str(b)), None
    with refusals_in(junit, names):
        traces = {"a": Trace.load(a), "b": Trace.load(b)}
        refuse_different_runs(traces["a"], traces["b"])
        if oracle is not None:
            truth = Trace.load(oracle)
            refuse_different_runs(traces["a"], truth)
        else:
            truth = truth_of(traces["a"], traces["b"], data_of(traces["a"]))
        found = explain(traces["a"], traces["b"], truth)
        if replay:
            data, window = data_of(traces["a"]), {*found.needs, *({found.first.update} if found.first else ())} - {-1}
            with training_progress() as report:
                again = train_again(traces, data, detail=window, report=report)
                alone = train_again(traces, data, detail=window, report=report, threads=1)
            same = {side: reproduces(trace, traces[side]) for side, trace in again.items()}
            # a side that does not come out as it was recorded is judged by its record alone
            traces |= {side: trace for side, trace in again.items() if same[side]}
            truth = truth_of(traces["a"], traces["b"], data)
            reruns = {side: [trace] for side, trace in alone.items() if same[side]}
            found = explain(traces["a"], traces["b"], truth, reruns=reruns)
    print_diagnosis(found, names, make_console(), same)
    if junit is not None:
        write_file(junit, junit_comparison(found.comparison, names))
    return 1 if found.verdict == "diverged" else 0
