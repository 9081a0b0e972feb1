"""One object starts, feeds, awaits and ends the processes that train."""

from pathlib import Path

import pytest

import lockstep.run.team
from lockstep.data_prep import prepare
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from lockstep.run.team import Team
from lockstep.run.workers import Job, Worker
from parity_tests.shared.recipes import small_recipe


def quiet(name: str, updates: int, total: int) -> None:
    """Show no progress."""


def jobs_in(folder: Path, *names: str) -> list[Job]:
    recipe = small_recipe()
    prepare(recipe).save(folder / "data")
    return [Job(recipe, folder / "data", folder / f"{name}.trace") for name in names]


def test_workers_of_one_backend_train_and_report_by_names_of_their_own(tmp_path: Path) -> None:
    reported: set[str] = set()
    jobs = jobs_in(tmp_path, "a", "b")
    with Team(["oracle", "oracle"]) as team:
        assert team.names == ["oracle", "oracle 2"]
        job_of = {name: [job] for name, job in zip(team.names, jobs)}
        team.train(job_of, lambda name, updates, total: reported.add(name))
    assert reported == {"oracle", "oracle 2"}
    assert Trace.load(jobs[0].out).header == Trace.load(jobs[1].out).header


def leave_by(error: type[BaseException], workers: list[Worker]) -> None:
    with Team(["oracle", "oracle"]) as team:
        workers += team.workers.values()
        assert [worker.process.poll() for worker in workers] == [None, None]
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_every_worker_has_ended_however_the_block_is_left(error: type[BaseException]) -> None:
    workers: list[Worker] = []
    with pytest.raises(error):
        leave_by(error, workers)
    assert all(worker.process.poll() is not None for worker in workers)


def test_a_worker_has_ended_where_the_next_one_cannot_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Worker] = []

    def start(backend: str, *settings: object, **options: object) -> Worker:
        if started:
            raise KeyboardInterrupt
        started.append(Worker(backend, "cpu"))
        return started[0]

    monkeypatch.setattr(lockstep.run.team, "Worker", start)
    with pytest.raises(KeyboardInterrupt), Team(["oracle", "oracle"]):
        pass
    assert started[0].process.poll() is not None


def test_the_jobs_after_one_that_ends_its_worker_are_done_by_another(tmp_path: Path) -> None:
    first, bad, last = jobs_in(tmp_path, "first", "bad", "last")
    bad = Job(bad.recipe, bad.data, tmp_path / "no such folder" / "bad.trace")
    with Team(["oracle"]) as team:
        team.begin({"oracle": [first, bad, last]}, quiet)
        faults = team.finish()
    assert list(faults) == [bad.out]
    assert Trace.load(first.out).arrays.keys() == Trace.load(last.out).arrays.keys()
