"""A whole run: prepare once, train the oracle here and both twins beside it, judge, and fill a run folder."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, NamedTuple

from lockstep.data_prep import PreparedData, Table
from lockstep.diagnose.exact import float64_bounds
from lockstep.diagnose.verdict import Verdict, judge
from lockstep.ensemble import Ensemble
from lockstep.errors import InputError
from lockstep.kept import prepare_kept
from lockstep.oracle.train import states
from lockstep.oracle.train import train as train_oracle
from lockstep.processes import child_environment
from lockstep.recipe import Recipe, Schedule
from lockstep.trace import Trace

__all__ = [
    "BACKENDS",
    "Interpreter",
    "Job",
    "Run",
    "Worker",
    "contrast_schedule",
    "finish_jobs",
    "limit_threads",
    "serve",
    "train_everywhere",
]

BACKENDS = ("torch", "jax")

Report = Callable[[str, int, int], None]
"""Called with a backend, its updates done and its updates in all."""


@dataclass(frozen=True)
class Job:
    """One training for a worker: what, on which saved `PreparedData`, and the trace's file; for one that plants
    faults also the key of one, "" for none.

    For one that trains members at once `seeds` are the first and the last (exclusive), `own` says whether the framework
    draws them itself, and the file is that of an ensemble. `engine` is "" for the worker's.
    """

    recipe: Recipe
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
class Run:
    """All that one `lockstep run` trained. Each mapping has the keys torch, jax and oracle.

    `traces` are the recipe as it is, `semantics` the recipe in float64 by the plain engine, and `contrast` the recipe
    without its warmup. `fast` is the recipe in float64 by the fast engine, of torch and jax alone, where that trained
    the traces; else it is empty.
    """

    recipe: Recipe
    table: Table
    data: PreparedData
    traces: dict[str, Trace]
    semantics: dict[str, Trace]
    contrast: dict[str, Trace]
    fast: dict[str, Trace]
    verdict: Verdict


@dataclass(frozen=True)
class Interpreter:
    """Another environment's Python, and the folder from which it imports lockstep and the twins."""

    python: Path
    source: Path


class Worker:
    """A process that imports one twin at once and trains what it is told: both frameworks start side by side.

    `threads` is how many may share one operation; None leaves it to the framework. `interpreter` is None for the
    present environment. `plants` says where its jobs' faults are planted, "twin" or "library", by
    `lockstep.prove.plant`; "" for a worker whose jobs have none. `members`: it trains many at once.
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
        settings = {"JAX_TRACEBACK_FILTERING": "off"}  # else a note on that is the last line of an error
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
                *(("--engine", engine) if engine != "plain" else ()),  # an older source knows no engines
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=child_environment()
            | settings
            | (limit_threads(threads) if threads else {})
            | (_devices() if members else {}),
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
            self.process.stdin.flush()  # and it stays open: its end is how a worker learns that this process is gone
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
            self.failure = f"the {self.backend} process ended with status {code}: {''.join(last) or 'no message'}"
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


def finish_jobs(worker: Worker, jobs: Sequence[Job], report: Report) -> dict[Path, str]:
    """Wait for a worker; where a job ends it, go on with the next in a new process. The worker is stopped.

    Returns:
        the trace's file of each job that failed, and why.

    Raises:
        InputError: the twin could not be imported, or no job is to blame.
    """
    faults: dict[Path, str] = {}
    while True:
        try:
            worker.wait()
            return faults
        except InputError as error:
            left = [job for job in jobs if not job.out.exists() and job.out not in faults]
            if not (left and worker.ready):
                raise
            faults[left[0].out] = str(error)
            if len(left) == 1:
                return faults
        finally:
            worker.stop()
        worker = Worker(
            worker.backend,
            worker.device,
            worker.threads,
            worker.interpreter,
            plants=worker.plants,
            engine=worker.engine,
        )
        worker.send(left[1:], report)


def limit_threads(threads: int) -> dict[str, str]:
    """The environment in which a framework that is not loaded yet shares an operation among so many threads."""
    flags = os.environ.get("XLA_FLAGS", "")
    # XLA has no number of threads to set, but whether an operation has more than one
    alone = {"XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false".strip()} if threads == 1 else {}
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **alone}


def _devices() -> dict[str, str]:
    """A device for each core: JAX must be told before it is loaded."""
    flags, name = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {} if name in flags else {"XLA_FLAGS": f"{flags} {name}={cores}".strip()}


def serve(load: Callable[[], Callable[..., Trace | Ensemble]], device: str, stdin: IO[str], stdout: IO[str]) -> int:
    """A worker's side: import a twin, read the work from stdin, train it, and tell the progress on stdout.

    A worker ends where its stdin does: whatever becomes of the process that started it, none is left behind.

    Args:
        load: imports the twin and returns what trains.
        device: "cpu", "gpu" or "auto".
        stdin: a pipe that holds one line and stays open while the work is wanted.
        stdout: where each message is a line.

    Returns:
        0, or 2 where there was an `InputError`, which is told too.
    """
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
            if job["seeds"]:
                more = {"seeds": range(*job["seeds"]), "own": job["own"]}
            else:
                more = {name: job[name] for name in ("parameters_every", "detail", "statistics")}
                more["synchronise"] = states(recipe, prepared) if job["synchronised"] else None
                more |= {"engine": job["engine"]} if job["engine"] else {}
            trained = train(
                recipe,
                prepared,
                device=device,
                progress=partial(_tell_progress, stdout, before, total),
                **more,
                **({} if job["fault"] is None else {"fault": job["fault"]}),
            )
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
    while piece := os.read(stdin, 2**16):  # no file object, whose lock a thread would hold when the process ends
        line += piece
        if line.endswith(b"\n"):
            work.put(line)
    os._exit(0)


def _say(stdout: IO[str], kind: str, **content: Any) -> None:
    print(json.dumps({"lockstep": kind, **content}), file=stdout, flush=True)


def _tell_progress(stdout: IO[str], before: int, total: int, done: int, _: int) -> None:
    _say(stdout, "progress", done=before + done, total=total)


UNSET: dict[str, Any] = {"edges": None, "warmup_curve": None, "warmup_top": None}


def contrast_schedule(recipe: Recipe, updates_per_epoch: int) -> Schedule:
    """The schedule to hold the recipe's against: without its warmup, or, where it has none, with one over the
    first half of the epochs (or of a schedule that ends sooner)."""
    schedule = recipe.schedule
    if recipe.warmup:
        # to a library a warmup of no length may be another schedule, or none
        changes: dict[str, Any] = {**UNSET, "warmup": 0, "warmup_shape": "linear"}
        if schedule.name == "inverse_sqrt":
            changes["timescale"] = schedule.timescale or recipe.warmup
        return replace(schedule, **changes)
    unit = 1 if schedule.unit == "epoch" else updates_per_epoch
    half = (recipe.training.epochs + 1) // 2 * unit
    if schedule.length:
        half = min(half, (schedule.length + 1) // 2)
    changes = {**UNSET, "warmup": half, "warmup_shape": "linear", "warmup_start": 0.0, "ramp": "(t+1)/W"}
    if schedule.name == "wsd":
        left = (schedule.length or recipe.training.epochs * unit) - half
        changes["decay_length"] = max(1, min(schedule.decay_length, left))
        changes["warmup"] = half if left else half - 1
    return replace(schedule, **changes)


def train_everywhere(
    recipe: Recipe,
    folder: Path,
    *,
    device: str,
    report: Report,
    engine: str = "auto",
    library_faults: Mapping[str, str] | None = None,
) -> Run:
    """Train the recipe, its float64 form and its contrast with the oracle and both twins.

    The float64 form is trained by the plain engine, whose optimizers and layers are those of the frameworks, and by the
    fast one beside it where that trains the rest.

    Args:
        recipe: what to train.
        folder: where the traces go: `torch.trace`, `jax.trace`, `oracle.trace`, and those of the other forms in
            `float64/`, `float64/fast/` and `contrast/`.
        device: "cpu", "gpu" or "auto", for both twins.
        report: told of each backend's progress.
        engine: "plain", "fast" or "auto", for both twins.
        library_faults: backend -> key of the fault to plant in its library; see `lockstep.prove.library_faults`.

    Raises:
        InputError: data that cannot be trained on, a device or framework that is not there.
    """
    faults = library_faults or {}
    workers = [
        Worker(backend, device, engine=engine, plants="library" if backend in faults else "") for backend in BACKENDS
    ]
    try:
        table, data = prepare_kept(recipe)
        exact = recipe.with_dtype("float64")
        forms = {
            "traces": _Form(folder, recipe, ""),
            "semantics": _Form(folder / "float64", exact, "plain"),
            "contrast": _Form(
                folder / "contrast",
                replace(recipe, schedule=contrast_schedule(recipe, data.updates_per_epoch)),
                "",
            ),
        }
        beside = {} if engine == "plain" else {"fast": _Form(folder / "float64" / "fast", exact, "fast")}
        for form in (forms | beside).values():
            form.folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            shared = Path(scratch) / "data"
            data.save(shared)
            for worker in workers:
                fault = faults.get(worker.backend)
                jobs = [form.job(shared, worker.backend, fault) for form in (forms | beside).values()]
                worker.send(jobs, report)
            oracles = _train_oracles(data, forms, report)
            for worker in workers:
                worker.wait()
    finally:
        for worker in workers:
            worker.stop()
    trained = {name: form.load() for name, form in (forms | beside).items()}
    for name, oracle in oracles.items():
        trained[name]["oracle"] = oracle
    fast = trained.get("fast", {})

    place = forms["semantics"].folder / "oracle.trace"
    derive_bounds = float64_bounds(exact, data, receive=lambda oracle: oracle.save(place))
    verdict = judge(trained["traces"], trained["semantics"], fast, derive_bounds=derive_bounds)
    return Run(recipe, table, data, trained["traces"], trained["semantics"], trained["contrast"], fast, verdict)


class _Form(NamedTuple):
    """One of the trainings of a run: where its traces go, what is trained, and by which engine, "" for the worker's."""

    folder: Path
    recipe: Recipe
    engine: str

    def job(self, data: Path, backend: str, fault: str | None) -> Job:
        return Job(self.recipe, data, self.folder / f"{backend}.trace", fault=fault, engine=self.engine)

    def load(self) -> dict[str, Trace]:
        return {backend: Trace.load_unchecked(self.folder / f"{backend}.trace") for backend in BACKENDS}


def _train_oracles(data: PreparedData, forms: Mapping[str, _Form], report: Report) -> dict[str, Trace]:
    traces: dict[str, Trace] = {}
    total = len(forms) * data.updates
    for i, (name, form) in enumerate(forms.items()):
        traces[name] = train_oracle(
            form.recipe,
            data,
            progress=partial(_report_oracle, report, i * data.updates, total),
            bounds=name == "traces",
        )
        traces[name].save(form.folder / "oracle.trace")
    return traces


def _report_oracle(report: Report, before: int, total: int, done: int, _: int) -> None:
    report("oracle", before + done, total)
