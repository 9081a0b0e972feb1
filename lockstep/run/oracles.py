"""The oracle's trainings, in this process while the workers train."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from lockstep.data_prep import PreparedData
from lockstep.oracle.train import train
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.run.workers import Report

__all__ = ["OracleJob", "train_oracles"]


class OracleJob(NamedTuple):
    """One training of the oracle; `bounds` says whether rounding bounds are derived beside it.

    `parameters_every` counts updates between records of the parameters; 0: at epoch ends only.
    """

    recipe: Recipe
    data: PreparedData
    bounds: bool
    parameters_every: int = 0


def train_oracles(jobs: Sequence[OracleJob], report: Report) -> list[Trace]:
    """Train each job in turn.

    Args:
        jobs: what to train.
        report: told of the progress of them all, as that of "oracle".
    """
    traces: list[Trace] = []
    total = sum(job.data.updates for job in jobs)
    before = 0
    for job in jobs:
        progress = partial(_report, report, before, total)
        watch = Watch(parameters_every=job.parameters_every, progress=progress)
        trace = train(job.recipe, job.data, watch=watch, bounds=job.bounds)
        traces.append(trace)
        before += job.data.updates
    return traces


def _report(report: Report, before: int, total: int, done: int, _: int) -> None:
    report("oracle", before + done, total)
