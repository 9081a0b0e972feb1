"""Train a trace's recipe again: to record in detail what the trace did not, and to see how far a
side differs from itself.
"""

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from lockstep.backends import BACKENDS
from lockstep.data_prep import PreparedData
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.diagnose.pairs import data_of, truth_of
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from lockstep.run.team import Team
from lockstep.run.workers import Job, Report

__all__ = ["data_of", "replay", "reproduces", "truth_of", "with_replayed"]


def replay(
    traces: Mapping[str, Trace],
    data: PreparedData,
    *,
    detail: Collection[int],
    report: Report,
    threads: int | None = None,
) -> dict[str, Trace]:
    """Train every trace's recipe with its backend again, all side by side, in processes of their
    own.

    Args:
        traces: side -> its trace, of the whole run.
        data: what they were trained on.
        detail: the updates to record in detail.
        report: told of each backend's progress.
        threads: of each process; None leaves it to the framework.

    Returns:
        side -> the new trace; without the oracle's, and without those of no backend of ours.

    Raises:
        InputError: a trace that goes on from a checkpoint, a framework that is not installed, or a
        process that died.
    """
    for side, trace in traces.items():
        if trace.first_update:
            raise InputError(
                f"--replay: {side} goes on from update {trace.first_update}, of a checkpoint; it "
                "takes a trace of the whole run"
            )
    chosen = {side: trace for side, trace in traces.items() if trace.backend in BACKENDS}
    with tempfile.TemporaryDirectory() as scratch:
        shared = Path(scratch) / "data"
        data.save(shared)
        files = {side: Path(scratch) / f"{side}.trace" for side in chosen}
        jobs = [_job(trace, shared, files[side], detail) for side, trace in chosen.items()]
        backends = [trace.backend for trace in chosen.values()]
        devices = [_device(trace) for trace in chosen.values()]
        with Team(backends, devices, threads=threads) as team:
            team.train({name: [job] for name, job in zip(team.names, jobs)}, report)
        return {side: Trace.load_unchecked(file) for side, file in files.items()}


def _job(trace: Trace, data: Path, out: Path, detail: Collection[int]) -> Job:
    return Job(
        recipe=trace.recipe,
        data=data,
        out=out,
        parameters_every=trace.header["parameters_every"],
        detail=tuple(sorted(detail)),
        statistics=_has_statistics(trace),
        synchronised=trace.header["synchronised"],
    )


def reproduces(again: Trace, trace: Trace, truth: Trace) -> bool:
    """Whether a replay has the bits of every array that the trace has, but for those that the trace
    has for its detail.

    Where the two are of different engines, the question is whether they differ by rounding alone,
    within the bounds of the oracle's trace `truth`.
    """
    if _engine(again) != _engine(trace):
        return compare(again, trace, bounds_of(truth) or {}).verdict != "diverged"
    for_detail = ["detail/"]
    for updates in set(trace.recorded_updates) - set(again.recorded_updates):
        for_detail += [f"parameters/{updates}/", f"average/{updates}/"]
    return all(
        name in again.arrays and again.arrays[name].tobytes() == array.tobytes()
        for name, array in trace.arrays.items()
        if not name.startswith(tuple(for_detail))
    )


def with_replayed(trace: Trace, again: Trace) -> Trace:
    """The trace with what a replay that reproduces it recorded besides; the replay alone where it
    is of another engine, and so of other bits.
    """
    if _engine(again) != _engine(trace):
        return again
    detail = sorted({*trace.header["detail"], *again.header["detail"]})
    return Trace(trace.header | {"detail": detail}, trace.arrays | again.arrays)


def _has_statistics(trace: Trace) -> bool:
    return trace.header.get("statistics") is not None


def _engine(trace: Trace) -> str:
    return str(trace.header["environment"].get("engine", "plain"))


def _device(trace: Trace) -> str:
    return "cpu" if trace.header["environment"].get("device", "cpu") == "cpu" else "gpu"
