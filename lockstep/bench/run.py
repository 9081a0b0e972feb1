"""Contenders timed side by side: a process each, proved equal first, in rounds of random order."""

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
from lockstep.bench.results_table import print_measured
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
"""How many members of an ensemble are compared with the oracle."""


class Contender:
    """One contender's process."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.started = perf_counter()
        environment = child_environment() | limit_threads(threads)
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # one GPU holds all contenders
        # no compiler finds what an earlier process compiled
        environment["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lockstep.bench.contender_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | CONTENDERS[name].environment,
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
    """What every contender trains, and the parameters that its proof must reach."""

    workload: Workload
    members: list[PreparedData]
    device: str
    threads: int
    message: dict[str, Any]
    truths: list[Parameters]

    def threads_of(self, contender: str) -> int:
        """The threads of a contender: of one that trains a single member, what is best for one."""
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
        workloads: what to train. Each is timed in its dtype and compared with the oracle in
            float64.
        device: "cpu", "gpu" or "auto".
        rounds: how often each contender is timed; a round times all of them, in random order.
        out: the JSON file for all samples, if any.
        console: where to print.
        against: groups of `registry.GROUPS` to time beside the twins.
        contenders: names from `CONTENDERS`, in place of the twins and groups.

    Returns:
        the exit status: 1 where a twin computes something else, else 0.

    Raises:
        InputError: the device is not there, the data are bad, or the file cannot be written.
    """
    if out is not None:
        check_output(out, RESULTS, option="--out")
    all_measured = {}
    status = 0
    for workload in workloads:
        names = list(contenders) or chosen(tuple(against), ensemble=workload.seeds > 1)
        measured = measure(workload, names, device=device, rounds=rounds, console=console)
        print_measured(workload.name, measured, console)
        all_measured[workload.name] = measured
        for name, outcome in measured.contenders.items():
            if CONTENDERS[name].group == "own" and outcome.differs is not None:
                status = 1
    results = Results(lockstep=__version__, machine=machine(), workloads=all_measured)
    machine_words = ", ".join(f"{key}: {value}" for key, value in results.machine.items())
    console.print(f"\n{machine_words}", highlight=False)
    if out is not None:
        results.save(out)
    return status


def measure(
    workload: Workload, contenders: Sequence[str], *, device: str, rounds: int, console: Console
) -> Measured:
    """Start each contender's process, prove it, then time all of them on one workload.

    Raises:
        InputError: as `run_bench`.
    """
    outcomes: dict[str, Outcome] = {}
    running: dict[str, Contender] = {}
    with _prepared(workload, device) as work:
        try:
            for name in contenders:
                if not is_there(name):
                    outcomes[name] = Outcome(skipped=NOT_INSTALLED)
                    continue
                console.print(f"getting ready: {workload.name}, {name}", highlight=False)
                running[name] = Contender(name, work.threads_of(name))
                outcomes[name] = _get_ready(running[name], work)
                if outcomes[name].skipped or outcomes[name].differs is not None:
                    running.pop(name).stop()
            seconds = _time_rounds(running, rounds)
        finally:
            for contender in running.values():
                contender.stop()
    updates = work.members[0].updates
    for name, of_runs in seconds.items():
        members = max(1, outcomes[name].trained)
        samples = [second / updates / members for second in of_runs]
        outcomes[name] = outcomes[name].model_copy(update={"samples": samples})
    return Measured(
        recipe=asdict(workload.recipe),
        seeds=workload.seeds,
        updates=updates,
        proof_updates=workload.proof_updates or updates,
        rounds=rounds,
        device=device,
        threads=work.threads,
        contenders=outcomes,
    )


def _time_rounds(running: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Each contender's seconds a run, one figure a round; each round has an order of its own."""
    seconds: dict[str, list[float]] = {name: [] for name in running}
    generator = random.Random(0)
    for _ in range(rounds):
        for name in generator.sample(list(running), k=len(running)):
            answer = running[name].ask("run")
            if "seconds" not in answer:
                raise InputError(f"{name}: {answer.get('error') or answer.get('skipped')}")
            seconds[name].append(answer["seconds"])
    return seconds


@contextmanager
def _prepared(workload: Workload, device: str) -> Iterator[_Work]:
    """The data of every member in files, and the oracle's parameters after the proof's updates."""
    recipe = workload.recipe
    table = load_table(recipe)
    seeds = range(recipe.training.seed, recipe.training.seed + workload.seeds)
    members = [prepare(recipe.with_values({"training.seed": seed}), table) for seed in seeds]
    proof = recipe.with_dtype("float64")
    proved = members[:PROVED]
    if workload.proof_updates:
        proved = [first_updates(data, workload.proof_updates) for data in proved]
    truths = []
    for data in proved:
        state = next(islice(states(proof, data), data.updates, None))
        truths.append(state.below("parameters"))
    threads = threads_for(members[0]) if len(members) == 1 else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        message = {
            "recipe": asdict(recipe),
            "data": _save_all(members, Path(folder), "member"),
            "device": device,
            "proof": {
                "recipe": asdict(proof),
                "data": _save_all(proved, Path(folder), "proved"),
                "out": f"{folder}/proof",
            },
        }
        yield _Work(workload, members, device, threads, message, truths)


def _save_all(members: Sequence[PreparedData], folder: Path, prefix: str) -> list[str]:
    """Save the data of each member in a file, and return the paths."""
    paths = []
    for s, data in enumerate(members):
        path = folder / f"{prefix}{s}"
        data.save(path)
        paths.append(str(path))
    return paths


def _get_ready(contender: Contender, work: _Work) -> Outcome:
    threads = work.threads_of(contender.name)
    answer = contender.ask(work.message | {"contender": contender.name, "threads": threads})
    cold_seconds = perf_counter() - contender.started
    error = None
    if answer.get("trained"):
        failure = contender.ask("prove")
        if failure:
            answer = failure
        else:
            _, arrays = read_tensors(Path(work.message["proof"]["out"]), PARAMETERS)
            error = _error(arrays, work.truths)
    if "error" in answer:
        raise InputError(answer["error"])
    if "skipped" in answer:
        extra = CONTENDERS[contender.name].extra if "missing" in answer else ""
        remedy = f": pip install 'lockstep[{extra}]'" if extra else ""
        return Outcome(skipped=answer["skipped"] + remedy)
    if error is not None and not error <= CONTENDERS[contender.name].bound:
        return Outcome(differs=error, **answer)
    return Outcome(cold_seconds=cold_seconds, float64_error=error, **answer)


def _error(arrays: Mapping[str, Any], truths: Sequence[Parameters]) -> float:
    """The largest error over the members that were trained: the first, or all."""
    members: dict[int, Parameters] = {}
    for key, array in arrays.items():
        s, _, name = key.partition("/")
        members.setdefault(int(s), {})[name] = array
    if list(members) not in ([0], list(range(len(truths)))):
        return float("inf")
    return max(compare_with_oracle(member, truths[s]) for s, member in members.items())


def compare_with_oracle(parameters: Mapping[str, Any], truth: Parameters) -> float:
    """Largest difference of any parameter after the last float64 update, over its tensor's largest
    value; infinite where names or shapes differ.
    """
    if parameters.keys() != truth.keys():
        return float("inf")
    errors = []
    for name, expected in truth.items():
        array = parameters[name]
        if array.shape != expected.shape:
            return float("inf")
        errors.append(np.abs(array - expected).max() / np.abs(expected).max())
    return float(np.max(errors))
