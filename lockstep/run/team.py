"""A team of workers: one object starts, feeds, awaits and ends them."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lockstep.backends import BACKENDS
from lockstep.errors import InputError
from lockstep.run.workers import Interpreter, Job, Report, Worker

__all__ = ["Team"]


class Team:
    """Workers that train side by side, each in a process of its own.

    `with Team(...)` starts them all at once, so that they load their frameworks while this process
    does something else, and ends every one of them however the block is left. Two steps hand over
    the work and wait for it, and between them this process may train the oracle:

        with Team(BACKENDS, device) as team:
            team.begin({"torch": [...], "jax": [...]}, report)
            oracle = train(recipe, data)
            team.wait()

    A team trains once: a worker ends after its jobs.
    """

    def __init__(
        self,
        backends: Collection[str] = BACKENDS,
        device: str | Sequence[str] = "cpu",
        *,
        threads: int | None = None,
        interpreter: Interpreter | None = None,
        plants: str | Mapping[str, str] = "",
        members: bool = False,
        engine: str = "plain",
    ) -> None:
        """Name the workers; none is started yet.

        Args:
            backends: one for each worker. Where one comes again its workers are "jax", "jax 2" and
                so on.
            device: "cpu", "gpu" or "auto", for all workers or one for each.
            threads: how many may share one operation; None leaves it to the framework.
            interpreter: the environment to train in; None: the present one.
            plants: where the jobs' faults are planted, "twin" or "library", "" where there are
                none; for all workers, or backend -> place.
            members: whether the jobs train many seeds at once.
            engine: for the jobs that name none.
        """
        devices = [device] * len(backends) if isinstance(device, str) else device
        self.workers: dict[str, Worker] = {}
        self._named = dict(zip(_names(backends), zip(backends, devices, strict=True)))
        self._threads = threads
        self._interpreter = interpreter
        self._plants = dict.fromkeys(backends, plants) if isinstance(plants, str) else plants
        self._members = members
        self._engine = engine
        self._jobs: dict[str, list[Job]] = {}
        self._report: Report = _tell_nobody

    @property
    def names(self) -> list[str]:
        """The workers' names, in the order of `backends`."""
        return list(self._named)

    def __enter__(self) -> Self:
        try:
            for name in self._named:
                self.workers[name] = self._start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def begin(self, jobs: Mapping[str, Sequence[Job]], report: Report) -> None:
        """Hand over the work and return at once.

        Args:
            jobs: name of every worker -> its jobs, in their order.
            report: told of each worker's progress, by its name, from other threads than this.
        """
        self._report = report
        for name, worker in self.workers.items():
            self._jobs[name] = list(jobs[name])
            worker.send(self._jobs[name], self._report_as(name))

    def wait(self) -> None:
        """Wait until every job is done.

        Raises:
            InputError: what the first worker that failed found wrong, or how it died.
        """
        for worker in self.workers.values():
            worker.wait()

    def finish(self) -> dict[Path, str]:
        """Wait as `wait`, but where a job ends its worker go on with the next job in a new one.

        Returns:
            the file of each job that failed, and why.

        Raises:
            InputError: a twin could not be imported, or no job is to blame.
        """
        faults: dict[Path, str] = {}
        for name in self._named:
            self._finish(name, faults)
        return faults

    def train(self, jobs: Mapping[str, Sequence[Job]], report: Report) -> None:
        """`begin`, and `wait`."""
        self.begin(jobs, report)
        self.wait()

    def stop(self) -> None:
        """End every worker, whatever it is doing."""
        for worker in self.workers.values():
            worker.stop()

    def _start(self, name: str) -> Worker:
        backend, device = self._named[name]
        return Worker(
            backend,
            device,
            self._threads,
            self._interpreter,
            plants=self._plants.get(backend, ""),
            members=self._members,
            engine=self._engine,
        )

    def _finish(self, name: str, faults: dict[Path, str]) -> None:
        jobs = self._jobs[name]
        while True:
            worker = self.workers[name]
            try:
                worker.wait()
                return
            except InputError as error:
                left = [job for job in jobs if not job.out.exists() and job.out not in faults]
                if not (left and worker.ready):
                    raise
                faults[left[0].out] = str(error)
            finally:
                worker.stop()
            if len(left) == 1:
                return
            self.workers[name] = self._start(name)
            self.workers[name].send(left[1:], self._report_as(name))

    def _report_as(self, name: str) -> Report:
        report = self._report
        return lambda _, done, total: report(name, done, total)


def _names(backends: Collection[str]) -> list[str]:
    """A name for each worker: "jax", then "jax 2" and so on."""
    names: list[str] = []
    workers: dict[str, int] = {}
    for backend in backends:
        workers[backend] = workers.get(backend, 0) + 1
        names.append(backend if workers[backend] == 1 else f"{backend} {workers[backend]}")
    return names


def _tell_nobody(name: str, done: int, total: int) -> None:
    """The report of a team that has no work yet."""
