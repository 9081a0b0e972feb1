"""The processes that train: each imports one twin, is told its jobs, and says how far it is."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from lockstep.errors import InputError
from lockstep.processes import child_environment

if TYPE_CHECKING:  # a worker starts while the one who starts it still loads these
    from lockstep.recipe import Recipe
    from lockstep.records.ensemble import Ensemble
    from lockstep.records.trace import Trace

__all__ = ["Interpreter", "Job", "Report", "Worker", "limit_threads", "serve"]

Report = Callable[[str, int, int], None]
"""Called with a worker's name, its updates done and its updates in all."""


@dataclass(frozen=True)
class Job:
    """One training for a worker: what, on which saved `PreparedData`, and the trace's file; for one
    that plants
    faults also the key of one, "" for none.

    For one that trains members at once `seeds` are the first and the last (exclusive), `own` says
    whether the framework draws them itself, and the file is that of an ensemble. `engine` is "" for
    the worker's.
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
    """A process that imports one twin at once and trains what it is told: both frameworks start
    side by side.

    `threads` is how many may share one operation; None leaves it to the framework. `interpreter` is
    None for the present environment. `plants` says where its jobs' faults are planted, "twin" or
    "library", by `lockstep.studies.prove.plant`; "" for a worker whose jobs have none. `members`:
    it trains many at once.
    `ready` says whether the twin could be imported.
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
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process that writes to it
        settings = {
            "JAX_TRACEBACK_FILTERING": "off"
        }  # else a note on that is the last line of an error
        settings |= limit_threads(threads) if threads else {}
        settings |= _devices() if members else {}
        if interpreter:  # the source alone, not what lies in the present folder or in the user's
            source = str(interpreter.source)
            settings |= {"PYTHONPATH": source, "PYTHONNOUSERSITE": "1"}
        self.process = subprocess.Popen(
            [
                str(interpreter.python) if interpreter else sys.executable,
                *("-m", "lockstep", "worker", backend, "--device", device),
                *(("--plants", plants) if plants else ()),
                *(["--members"] * members),
                *(
                    ("--engine", engine) if engine != "plain" else ()
                ),  # an older source knows no engines
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=child_environment() | settings,
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
            # and it stays open: its end is how a worker learns that this process is gone
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended before it was told anything; `wait` says why
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
            last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
            self.failure = (
                f"the {self.backend} process ended with status {code}: "
                f"{''.join(last) or 'no message'}"
            )
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

    def _listen(self, report: Report) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
                kind = message["lockstep"]
            except (ValueError, KeyError, TypeError):
                continue  # a library's own print
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
    flags = os.environ.get("XLA_FLAGS", "")
    # XLA has no number of threads to set, but whether an operation has more than one
    alone = (
        {"XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false".strip()} if threads == 1 else {}
    )
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **alone}


def _devices() -> dict[str, str]:
    """A device for each core: JAX must be told before it is loaded."""
    flags, name = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count"
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return {} if name in flags else {"XLA_FLAGS": f"{flags} {name}={cores}".strip()}


def serve(
    load: "Callable[[], Callable[..., Trace | Ensemble]]",
    device: str,
    stdin: IO[str],
    stdout: IO[str],
) -> int:
    """A worker's side: import a twin, read the work from stdin, train it, and tell the progress on
    stdout.

    A worker ends where its stdin does: whatever becomes of the process that started it, none is
    left behind.

    Args:
        load: imports the twin and returns what trains.
        device: "cpu", "gpu" or "auto".
        stdin: a pipe that holds one line and stays open while the work is wanted.
        stdout: where each message is a line.

    Returns:
        0, or 2 where there was an `InputError`, which is told too.
    """
    from lockstep.data_prep import PreparedData
    from lockstep.oracle.train import states
    from lockstep.recipe import Recipe
    from lockstep.records.run_recorder import Watch

    work: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_work, args=(stdin.fileno(), work), daemon=True).start()
    try:
        train = load()
        _say(stdout, "ready")
        jobs = json.loads(work.get())
        data = {path: PreparedData.load(Path(path)) for path in {job["data"] for job in jobs}}
        updates = [data[job["data"]].updates * len(range(*job["seeds"] or (1,))) for job in jobs]
        total, before = sum(updates), 0
        for job, of_job in zip(jobs, updates):
            recipe, prepared = Recipe.from_dict(job["recipe"]), data[job["data"]]
            progress = partial(_tell_progress, stdout, before, total)
            options: dict[str, Any] = {"device": device}
            if job["seeds"]:
                options |= {"seeds": range(*job["seeds"]), "own": job["own"], "progress": progress}
            else:
                recorded = {
                    name: job[name] for name in ("parameters_every", "detail", "statistics")
                }
                given = states(recipe, prepared) if job["synchronised"] else None
                options["watch"] = Watch(**recorded, synchronise=given, progress=progress)
                options |= {"engine": job["engine"]} if job["engine"] else {}
            options |= {} if job["fault"] is None else {"fault": job["fault"]}
            trained = train(recipe, prepared, **options)
            trained.save(Path(job["out"]))
            before += of_job
        _say(stdout, "finished")
    except InputError as error:
        _say(stdout, "error", text=str(error))
        return 2
    return 0


def _read_work(stdin: int, work: SimpleQueue[bytes]) -> None:
    """Pass on the one line, and end this process where the input ends: no more is wanted."""
    line = b""
    while piece := os.read(
        stdin, 2**16
    ):  # no file object, whose lock a thread would hold when the process ends
        line += piece
        if line.endswith(b"\n"):
            work.put(line)
    os._exit(0)


def _say(stdout: IO[str], kind: str, **content: Any) -> None:
    print(json.dumps({"lockstep": kind, **content}), file=stdout, flush=True)


def _tell_progress(stdout: IO[str], before: int, total: int, done: int, _: int) -> None:
    _say(stdout, "progress", done=before + done, total=total)
