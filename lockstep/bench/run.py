"""Contenders timed side by side: one process each, proved equal first, interleaved in random
order.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from lockstep.bench.contender_process import PARAMETERS
from lockstep.bench.registry import ALWAYS, CONTENDERS, chosen, is_there
from lockstep.bench.results import RESULTS, Measured, Outcome, Results, machine
from lockstep.bench.table import print_measured
from lockstep.bench.workloads import Workload, first_updates, threads_for
from lockstep.data_prep import Parameters, PreparedData, load_table, prepare
from lockstep.errors import InputError
from lockstep.files.outputs import check_output
from lockstep.oracle.train import states
from lockstep.processes import child_environment
from lockstep.run.workers import limit_threads
from lockstep.tensor_file import read_tensors
from lockstep.version import __version__

__all__ = ["Contender", "compare_with_oracle", "measure", "run_bench"]

NOT_INSTALLED = "not part of an installed lockstep, but of a checkout of its repository"

PROVED = 4
"""Members of an ensemble that are held against the oracle."""


class Contender:
    """One contender's process."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.started = perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lockstep.bench.contender_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # one GPU holds all contenders, and no compiler finds what an earlier process compiled
            env={
                name: value
                for name, value in child_environment().items()
                if name != "JAX_COMPILATION_CACHE_DIR"
            }
            | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
            | limit_threads(threads)
            | CONTENDERS[name].environment,
        )

    def ask(self, message: Any) -> dict[str, Any]:
        """Send a JSON line and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"skipped": f"the process ended with status {self.process.wait()}"}
        for line in self.process.stdout:
            try:
                answer: dict[str, Any] = json.loads(line)["lockstep"]
            except (ValueError, KeyError, TypeError):
                continue  # a library's own print
            return answer
        return {"skipped": f"the process ended with status {self.process.wait()}"}

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True)
class _Work:
    """What every contender is told, and what the proof must come to."""

    workload: Workload
    members: list[PreparedData]
    device: str
    threads: int
    message: dict[str, Any]
    truths: list[Parameters]

    def threads_of(self, contender: str) -> int:
        """All of them where all members are trained; one that trains a single member has what is
        best for one.
        """
        return self.threads if CONTENDERS[contender].trains_all else threads_for(self.members[0])


def run_bench(
    workloads: Sequence[Workload],
    *,
    device: str,
    rounds: int,
    out: Path | None,
    console: Console,
    against: Sequence[str] = ALWAYS,
    contenders: Sequence[str] = (),
) -> int:
    """Time every contender on each workload and print the figures.

    Args:
        workloads: what to train; timed in its dtype, compared with the oracle in float64.
        device: "cpu", "gpu" or "auto".
        rounds: how often each is timed; every round times all of them, in random order.
        out: where to write all samples as JSON, if anywhere.
        console: where to print.
        against: groups of `registry.GROUPS` to time beside the twins.
        contenders: names from `CONTENDERS`, in place of the twins and groups.

    Returns:
        0; 1 where a twin computes something else.

    Raises:
        InputError: no such device, bad data, or a file that cannot be written.
    """
    if out is not None:
        check_output(out, RESULTS, option="--out")
    found = {}
    for workload in workloads:
        names = list(contenders) or chosen(tuple(against), ensemble=workload.seeds > 1)
        found[workload.name] = measure(
            workload, names, device=device, rounds=rounds, console=console
        )
        print_measured(workload.name, found[workload.name], console)
    results = Results(lockstep=__version__, machine=machine(), workloads=found)
    console.print(
        "\n" + ", ".join(f"{key}: {value}" for key, value in results.machine.items()),
        highlight=False,
    )
    if out is not None:
        results.save(out)
    outcomes = [pair for measured in found.values() for pair in measured.contenders.items()]
    return int(
        any(
            CONTENDERS[name].group == "own" and outcome.differs is not None
            for name, outcome in outcomes
        )
    )


def measure(
    workload: Workload, contenders: Sequence[str], *, device: str, rounds: int, console: Console
) -> Measured:
    """One workload: each contender's process is started, proved and then timed.

    Raises:
        InputError: as `run_bench`.
    """
    found: dict[str, Outcome] = {}
    running: dict[str, Contender] = {}
    with _prepared(workload, device) as work:
        try:
            for name in contenders:
                if not is_there(name):
                    found[name] = Outcome(skipped=NOT_INSTALLED)
                    continue
                console.print(f"getting ready: {workload.name}, {name}", highlight=False)
                running[name] = Contender(name, work.threads_of(name))
                found[name] = _get_ready(running[name], work)
                if found[name].skipped or found[name].differs is not None:
                    running.pop(name).stop()
            samples: dict[str, list[float]] = {name: [] for name in running}
            updates, order = work.members[0].updates, random.Random(0)
            for _ in range(rounds):
                for name in order.sample(list(running), k=len(running)):
                    answer = running[name].ask("run")
                    if "seconds" not in answer:
                        raise InputError(f"{name}: {answer.get('error') or answer.get('skipped')}")
                    samples[name].append(answer["seconds"] / updates / max(1, found[name].trained))
        finally:
            for contender in running.values():
                contender.stop()
    return Measured(
        recipe=asdict(workload.recipe),
        seeds=workload.seeds,
        updates=updates,
        proof_updates=workload.proof_updates or updates,
        rounds=rounds,
        device=device,
        threads=work.threads,
        contenders={
            name: outcome.model_copy(update={"samples": samples.get(name, [])})
            for name, outcome in found.items()
        },
    )


@contextmanager
def _prepared(workload: Workload, device: str) -> Iterator[_Work]:
    """The data of every member in files, and the oracle's parameters after the proof's updates."""
    table, recipe = load_table(workload.recipe), workload.recipe
    seeds = range(recipe.training.seed, recipe.training.seed + workload.seeds)
    members = [prepare(recipe.with_values({"training.seed": seed}), table) for seed in seeds]
    proof = recipe.with_dtype("float64")
    proved = members[:PROVED]
    if workload.proof_updates:
        proved = [first_updates(data, workload.proof_updates) for data in proved]
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            [Path(folder) / f"{kind}{s}" for s in range(len(of))]
            for kind, of in (("m", members), ("p", proved))
        ]
        for data, path in zip((*members, *proved), (path for of in paths for path in of)):
            data.save(path)
        truths = []
        for data in proved:
            state = next(islice(states(proof, data), data.updates, None))
            truths.append(state.below("parameters"))
        threads = threads_for(members[0]) if len(members) == 1 else os.cpu_count() or 1
        message = {
            "recipe": asdict(recipe),
            "data": [str(path) for path in paths[0]],
            "device": device,
            "proof": {
                "recipe": asdict(proof),
                "data": [str(path) for path in paths[1]],
                "out": f"{folder}/proof",
            },
        }
        yield _Work(workload, members, device, threads, message, truths)


def _get_ready(contender: Contender, work: _Work) -> Outcome:
    threads = work.threads_of(contender.name)
    answer = contender.ask(work.message | {"contender": contender.name, "threads": threads})
    cold, error = perf_counter() - contender.started, None
    if answer.get("trained"):
        if failed := contender.ask("prove"):
            answer = failed
        else:
            error = _error(
                read_tensors(Path(work.message["proof"]["out"]), PARAMETERS)[1], work.truths
            )
    if "error" in answer:
        raise InputError(answer["error"])
    if "skipped" in answer:
        extra = CONTENDERS[contender.name].extra if "missing" in answer else ""
        return Outcome(
            skipped=answer["skipped"] + (f": pip install 'lockstep[{extra}]'" if extra else "")
        )
    if error is not None and not error <= CONTENDERS[contender.name].bound:
        return Outcome(differs=error, **answer)
    return Outcome(cold_seconds=cold, float64_error=error, **answer)


def _error(arrays: Mapping[str, Any], truths: Sequence[Parameters]) -> float:
    """The largest over the members that were trained, one or all."""
    members: dict[int, Parameters] = {}
    for key, array in arrays.items():
        s, _, name = key.partition("/")
        members.setdefault(int(s), {})[name] = array
    if list(members) not in ([0], list(range(len(truths)))):
        return float("inf")
    return max(compare_with_oracle(member, truths[s]) for s, member in members.items())


def compare_with_oracle(parameters: Mapping[str, Any], truth: Parameters) -> float:
    """Largest difference of any parameter after the last float64 update, relative to its tensor's
    largest value; infinite where names or shapes differ."""
    if parameters.keys() != truth.keys() or any(
        parameters[name].shape != truth[name].shape for name in truth
    ):
        return float("inf")
    errors = [
        np.abs(parameters[name] - truth[name]).max() / np.abs(truth[name]).max() for name in truth
    ]
    return float(np.max(errors))
