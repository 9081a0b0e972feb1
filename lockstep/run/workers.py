"""The processes that train: each imports one twin, reads its jobs, and reports its progress."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from lockstep.errors import InputError
from lockstep.processes import child_environment

if TYPE_CHECKING:  # a worker starts while the process that starts it still loads these
    from lockstep.data_prep import PreparedData
    from lockstep.recipe import Recipe
    from lockstep.records.ensemble import Ensemble
    from lockstep.records.trace import Trace

__all__ = ["Interpreter", "Job", "Report", "Worker", "limit_threads", "serve"]

Report = Callable[[str, int, int], None]
"""Called with a worker's name, its updates done and its updates in all."""


NEEDED = ("lockstep.oracle.train", "lockstep.recipe", "lockstep.records.run_recorder")
"""What a worker needs to train a job: it loads this before its jobs come."""


@dataclass(frozen=True)
class Job:
    """One training for a worker.

    Attributes:
        recipe: what to train.
        data: the file of a saved `PreparedData`.
        out: the file to write: a trace, or an ensemble where `seeds` are given.
        parameters_every: record the parameters after every so many updates; 0: at epoch ends only.
        detail: the updates to record in detail.
        statistics: whether to record the statistics of every update.
        synchronised: whether every update begins from the oracle's state.
        fault: key of the fault to plant, "" for none; None for a worker that plants none.
        seeds: the first and the last (exclusive) of the members to train at once; None: one run.
        own: whether the framework draws the members itself.
        engine: plain or fast; "" for the worker's.
    """

    recipe: "Recipe"
    data: Path
    out: Path
    parameters_every: int = 0
    detail: tuple[int, ...] = ()
    statistics: bool = False
    synchronised: bool = False
    fault: str | None = None
    seeds: tuple[int, int] | None = None
    own: bool = False
    engine: str = ""


@dataclass(frozen=True)
class Interpreter:
    """Another environment's Python, and the folder from which it imports lockstep and the twins."""

    python: Path
    source: Path


class Worker:
    """A process that imports one twin at once and then trains its jobs, so that both frameworks
    start side by side. `ready` says whether the twin could be imported.

    Args:
        backend: of the twin.
        device: "cpu", "gpu" or "auto".
        threads: how many may share one operation; None leaves it to the framework.
        interpreter: the environment to train in; None: the present one.
        plants: where the jobs' faults are planted, "twin" or "library", by
            `lockstep.studies.prove.planting`; "" for a worker whose jobs have none.
        members: whether it trains many members at once.
        engine: for the jobs that name none.
    """

    def __init__(
        self,
        backend: str,
        device: str,
        threads: int | None = None,
        interpreter: Interpreter | None = None,
        *,
        plants: str = "",
        members: bool = False,
        engine: str = "plain",
    ) -> None:
        self.backend = backend
        self.device = device
        self.threads = threads
        self.interpreter = interpreter
        self.engine = engine
        self.plants = plants
        # it lives as long as the process that writes to it
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            self._command(members),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=child_environment() | self._variables(members),
        )
        self.thread: threading.Thread | None = None
        self.failure: str | None = None
        self.ready = False
        self.finished = False

    def send(self, jobs: list[Job], report: Report) -> None:
        """Hand over the work; `report` hears of its progress, in a thread."""
        message = [asdict(job) | {"data": str(job.data), "out": str(job.out)} for job in jobs]
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            # the pipe stays open: its end is how a worker learns that this process is gone
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the worker ended before it read its jobs; `wait` says why
        self.thread = threading.Thread(target=self._listen, args=(report,), daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Wait for the traces to be written.

        Raises:
            InputError: what the worker found wrong, or how it died.
        """
        assert self.thread is not None
        self.thread.join()
        code = self.process.wait()
        if self.failure is None and not self.finished:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").strip().splitlines()
            last = lines[-1] if lines else "no message"
            self.failure = f"the {self.backend} process ended with status {code}: {last}"
        if self.failure is not None:
            raise InputError(self.failure)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                stream.close()
        self.errors.close()

    def _command(self, members: bool) -> list[str]:
        """What the process runs."""
        python = str(self.interpreter.python) if self.interpreter else sys.executable
        command = [python, "-m", "lockstep", "worker", self.backend, "--device", self.device]
        if self.plants:
            command += ["--plants", self.plants]
        if members:
            command.append("--members")
        if self.engine != "plain":  # an older source knows no engines
            command += ["--engine", self.engine]
        return command

    def _variables(self, members: bool) -> dict[str, str]:
        """The environment variables that the process gets besides."""
        # else a note on the filtering is the last line of an error
        variables = {"JAX_TRACEBACK_FILTERING": "off"}
        if self.threads:
            variables |= limit_threads(self.threads)
        if members:
            variables |= _devices()
        if self.interpreter:
            # the source alone, not what lies in the present folder or in the user's
            variables |= {"PYTHONPATH": str(self.interpreter.source), "PYTHONNOUSERSITE": "1"}
        return variables

    def _listen(self, report: Report) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
                kind = message["lockstep"]
            except (ValueError, KeyError, TypeError):
                continue  # a library's own print
            self._receive(kind, message, report)

    def _receive(self, kind: str, message: Mapping[str, Any], report: Report) -> None:
        """Take note of one message of the worker."""
        if kind == "progress":
            report(self.backend, message["done"], message["total"])
        elif kind == "ready":
            self.ready = True
        elif kind == "error":
            self.failure = message["text"]
        elif kind == "finished":
            self.finished = True


def limit_threads(threads: int) -> dict[str, str]:
    """The environment in which a framework that is not loaded yet shares an operation among so many
    threads.
    """
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if threads == 1:
        # XLA has no number of threads to set, but whether an operation has more than one
        flags = os.environ.get("XLA_FLAGS", "")
        variables["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return variables


def _devices() -> dict[str, str]:
    """The environment in which JAX has a device for each core: it reads that as it is loaded."""
    flags = os.environ.get("XLA_FLAGS", "")
    option = "--xla_force_host_platform_device_count"
    if option in flags:
        return {}
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return {"XLA_FLAGS": f"{flags} {option}={cores}".strip()}


def serve(
    load: "Callable[[], Callable[..., Trace | Ensemble]]",
    device: str,
    stdin: IO[str],
    stdout: IO[str],
) -> int:
    """A worker's side: import a twin, read the jobs from stdin, train them, and report the progress
    on stdout.

    A worker ends where its stdin does. Whatever becomes of the process that started it, no worker
    is left behind.

    Args:
        load: imports the twin and returns what trains.
        device: "cpu", "gpu" or "auto".
        stdin: a pipe that holds one line and stays open while the work is wanted.
        stdout: where each message is a line.

    Returns:
        0, or 2 where there was an `InputError`, which is a message too.
    """
    from lockstep.data_prep import PreparedData

    for module in NEEDED:
        import_module(module)
    work: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_work, args=(stdin.fileno(), work), daemon=True).start()
    try:
        train = load()
        _say(stdout, "ready")
        jobs = json.loads(work.get())
        data = {path: PreparedData.load(Path(path)) for path in {job["data"] for job in jobs}}
        updates = [_updates_of(job, data[job["data"]]) for job in jobs]
        total = sum(updates)
        before = 0
        for job, of_job in zip(jobs, updates):
            progress = partial(_say_progress, stdout, before, total)
            _train(train, job, data[job["data"]], device, progress)
            before += of_job
        _say(stdout, "finished")
    except InputError as error:
        _say(stdout, "error", text=str(error))
        return 2
    return 0


def _updates_of(job: Mapping[str, Any], data: "PreparedData") -> int:
    """The updates of a job, of all its members."""
    members = len(range(*job["seeds"])) if job["seeds"] else 1
    return data.updates * members


def _train(
    train: "Callable[..., Trace | Ensemble]",
    job: Mapping[str, Any],
    data: "PreparedData",
    device: str,
    progress: Callable[[int, int], None],
) -> None:
    """Train a job and save what it records; the job is a `Job` as it comes out of JSON."""
    from lockstep.oracle.train import states
    from lockstep.recipe import Recipe
    from lockstep.records.run_recorder import Watch

    recipe = Recipe.from_dict(job["recipe"])
    options: dict[str, Any] = {"device": device}
    if job["seeds"]:
        options |= {"seeds": range(*job["seeds"]), "own": job["own"], "progress": progress}
    else:
        options["watch"] = Watch(
            parameters_every=job["parameters_every"],
            detail=job["detail"],
            statistics=job["statistics"],
            synchronise=states(recipe, data) if job["synchronised"] else None,
            progress=progress,
        )
        if job["engine"]:
            options["engine"] = job["engine"]
    if job["fault"] is not None:
        options["fault"] = job["fault"]
    train(recipe, data, **options).save(Path(job["out"]))


def _read_work(stdin: int, work: SimpleQueue[bytes]) -> None:
    """Pass on the one line, and end this process where the input ends: no more is wanted."""
    line = b""
    # no file object is read, whose lock a thread would hold when the process ends
    for piece in iter(partial(os.read, stdin, 2**16), b""):
        line += piece
        if line.endswith(b"\n"):
            work.put(line)
    os._exit(0)


def _say(stdout: IO[str], kind: str, **content: Any) -> None:
    print(json.dumps({"lockstep": kind, **content}), file=stdout, flush=True)


def _say_progress(stdout: IO[str], before: int, total: int, done: int, _: int) -> None:
    _say(stdout, "progress", done=before + done, total=total)
