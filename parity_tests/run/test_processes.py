"""No process of lockstep imports what lies in the present folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.bench.run import Contender
from lockstep.data_prep import prepare
from lockstep.errors import InputError
from lockstep.processes import child_environment
from lockstep.records.trace import Trace
from lockstep.run.workers import Job, Worker
from lockstep.studies.upgrade.environments import releases
from parity_tests.shared.recipes import small_recipe

MODULES = ("queue", "random", "json", "numpy", "click")
MODULES += ("torch", "jax", "benchmarks", "pt_impl", "sitecustomize")


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with modules that people might have in it. Each writes a file and ends
    the process.
    """
    log = str(tmp_path / "imported")
    for name in MODULES:
        text = f"open({log!r}, 'a').write('{name} ')\nimport os\nos._exit(9)\n"
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(folder: Path) -> str:
    return (folder / "imported").read_text() if (folder / "imported").exists() else ""


def train(folder: Path, backend: str = "oracle") -> Trace:
    """Train by a worker, as every command does."""
    recipe = small_recipe()
    prepare(recipe).save(folder / "data")
    worker = Worker(backend, "cpu")
    try:
        worker.send([Job(recipe, folder / "data", folder / "t.trace")], lambda *_: None)
        worker.wait()
    finally:
        worker.stop()
    return Trace.load(folder / "t.trace")


@pytest.mark.parametrize(
    ("backend", "path"),
    [
        *(("oracle", path) for path in (None, "", ":", f":{os.sep}none")),
        ("torch", None),
        ("jax", None),
    ],
)
def test_a_worker_imports_nothing_from_the_present_folder(
    backend: str, path: str | None, poisoned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty entry in PYTHONPATH, which a shell's `$PYTHONPATH:more` leaves, counts as none."""
    if path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", path)
    assert train(poisoned, backend).header["backend"] == backend
    assert imported(poisoned) == ""


def test_what_the_user_put_on_the_path_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch/sitecustomize.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').write('patch')"
    )
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "patch"), "patch", f"none{os.pathsep}{tmp_path / 'patch'}"):
        monkeypatch.setenv("PYTHONPATH", path)
        train(tmp_path)
        assert imported(tmp_path) == "patch"
        (tmp_path / "imported").unlink()


def lockstep(*arguments: str, safe: bool = False) -> "subprocess.CompletedProcess[str]":
    options = ["-P"] if safe else []
    command = [sys.executable, *options, "-m", "lockstep", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("safe", [False, True])
def test_python_m_lockstep_imports_nothing_from_the_present_folder(
    safe: bool, poisoned: Path
) -> None:
    (poisoned / "sitecustomize.py").unlink()  # Python would import it before any line of ours
    process = lockstep("curve", "--preset", "hf.cosine", "--out", "c.npz", safe=safe)
    assert (process.returncode, process.stderr, imported(poisoned)) == (0, "", "")
    assert (poisoned / "c.npz").exists()


def test_a_contender_of_a_benchmark_imports_nothing_from_the_present_folder(poisoned: Path) -> None:
    contender = Contender("numpy", 1)
    try:
        # without work it says so, and has not died before
        answer = contender.ask({"contender": "numpy"})
    finally:
        contender.stop()
    assert "recipe" in answer["skipped"]
    assert imported(poisoned) == ""


def test_pip_imports_nothing_from_the_present_folder(
    poisoned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{poisoned}/none")
    with pytest.raises(InputError):
        releases("none")
    assert imported(poisoned) == ""


def test_a_checkout_that_is_not_installed_finds_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There lockstep lies in the present folder or where a script says."""
    root = str(Path(__file__).parents[2])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [root, "/elsewhere"])
    assert child_environment()["PYTHONPATH"] == root
    monkeypatch.setattr(sys, "path", ["", root])
    assert "PYTHONPATH" not in child_environment()
    assert child_environment()["PYTHONSAFEPATH"] == "1"
