"""The commands, called as a user calls them."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.cli import main
from lockstep.recipe import Recipe, load_recipe, ready_made_recipes
from lockstep.records.trace import Trace
from parity_tests.shared.sweep import sweep_but

SMALL = ["--set=data.rows=64", "--set=training.epochs=3", "--set=schedule.warmup=2"]
Lockstep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lockstep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Lockstep:
    """A function that runs a command in an empty folder and gives its exit status, standard output
    and standard error.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def write_csv(path: Path, rows: int = 60) -> None:
    generator = np.random.default_rng(0)
    lines = ["height,weight,constant,answer"]
    for i in range(rows):
        height, weight = generator.normal(i % 2, 0.5, 2)
        lines.append(f"{height:.3f},{weight:.3f},7,{'yes' if i % 2 else 'no'}")
    path.write_text("\n".join(lines) + "\n")


def check_run_folder(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    traces = {name: Trace.load(folder / f"{name}.trace") for name in ("torch", "jax", "oracle")}
    assert summary["verdict"] == "rounding"
    for name, trace in traces.items():
        assert summary[name]["loss"] == trace.metric("train_loss")[-1]
        assert summary[name]["accuracy"] == trace.metric("train_accuracy")[-1]
    torch, jax = traces["torch"], traces["jax"]
    gaps = []
    for update in torch.recorded_updates:
        others = jax.parameters(update)
        for name, array in torch.parameters(update).items():
            gaps.append(float(np.abs(array.astype(np.float64) - others[name]).max()))
    assert summary["max_difference"]["parameters"] == max(gaps) > 0
    assert summary["max_difference"]["lr"] == 0
    gap = float(np.abs(torch.series("loss") - jax.series("loss")).max())
    assert summary["max_difference"]["loss"] == gap
    page = (folder / "report.html").read_text()
    assert "<title>" in page
    assert "plotly" in page
    return summary


# --- the main job


def test_run_without_an_argument(lockstep: Lockstep, tmp_path: Path) -> None:
    status, out, err = lockstep("run")
    assert (status, err) == (0, "")
    summary = check_run_folder(tmp_path / "runs" / "seed")
    assert summary["torch"]["loss"] <= 0.30
    assert summary["torch"]["accuracy"] >= 0.88
    assert "1000 rows x 10 features" in out
    assert "Linear(10→50), ReLU, Linear(50→2)" in out
    assert "0.002 (epoch 1)" in out
    assert "ROUNDING" in out
    assert "PyTorch fast, JAX fast" in out
    assert "Quiz" in out
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines()[:-1]) <= 80

    # traces recorded one process each agree with the run's, bit for bit, and with one another
    for backend in ("torch", "jax", "oracle"):
        lockstep("record", "--backend", backend, "--out", f"{backend}.trace")
        recorded = Trace.load(tmp_path / f"{backend}.trace")
        ran = Trace.load(tmp_path / "runs/seed" / f"{backend}.trace")
        for name, array in recorded.arrays.items():
            np.testing.assert_array_equal(array, ran.arrays[name], err_msg=name)
    for a, b in (("torch", "jax"), ("torch", "oracle"), ("oracle", "jax")):
        status, out, _ = lockstep("compare", f"{a}.trace", f"{b}.trace")
        assert status == 0
        assert "verdict: rounding" in out

    # a run folder that exists is kept, and a new one is numbered
    before = (tmp_path / "runs/seed/torch.trace").read_bytes()
    status, out, _ = lockstep("run", *SMALL)
    assert status == 0
    assert "runs/seed-2" in out
    assert (tmp_path / "runs/seed/torch.trace").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["seed", "seed-2"]


@pytest.mark.parametrize(
    "name", sweep_but(["recipes/digits.toml"], ["breast_cancer", "recipes/digits.toml"])
)
def test_run_real_data(lockstep: Lockstep, tmp_path: Path, name: str) -> None:
    assert lockstep("run", name, "--out", "here")[0] == 0
    summary = check_run_folder(tmp_path / "here")
    assert summary["jax"]["held_out_accuracy"] > 0.9


def test_run_a_table_of_ones_own(lockstep: Lockstep, tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv")
    table = ("--data", "table.csv", "--target", "answer")
    status, out, _ = lockstep("run", *table, "--set", "training.batch=16")
    assert status == 0
    assert "no, yes" in out
    assert "constant" in out  # the constant column is named
    check_run_folder(tmp_path / "runs" / "table")
    recipe = Trace.load(tmp_path / "runs/table/torch.trace").recipe
    assert recipe.data.target == "answer"
    assert recipe.training.batch == 16


def test_diverged_frameworks_exit_with_1(lockstep: Lockstep, tmp_path: Path) -> None:
    for backend in ("torch", "oracle"):
        lockstep("record", "--backend", backend, "--out", f"{backend}.trace", *SMALL)
    trace = Trace.load(tmp_path / "torch.trace")
    trace.arrays["parameters/4/linear1.weight"][3, 7] += 1e-3
    trace.save(tmp_path / "moved.trace")
    status, out, _ = lockstep("compare", "moved.trace", "oracle.trace")
    assert status == 1
    assert "First at update 3, parameters, linear1.weight[3, 7]: " in out
    assert "verdict: diverged" in out


def test_output_in_a_terminal_and_with_no_color(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    for no_color, coloured in ((None, True), ("1", False)):
        environment = os.environ | {"TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        if no_color:
            environment["NO_COLOR"] = no_color
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "lockstep", "run", "--out", "here", *SMALL]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=slave, stderr=slave, stdin=slave
        )
        os.close(slave)
        screen = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            screen += piece
        assert process.wait() == 0
        os.close(master)
        # colours are set by sequences like ESC[32m; bold and the moves of a progress bar are none
        assert bool(re.search(rb"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[;m]", screen)) is coloured
        assert b"updates" in screen  # the progress bars


# --- recipes


def test_recipe_show_init_and_check(lockstep: Lockstep, tmp_path: Path) -> None:
    status, out, _ = lockstep("recipe", "show", "digits", "--set", "training.epochs=7")
    assert status == 0
    printed_recipe = Recipe.from_dict(tomllib.loads(out))
    assert printed_recipe == load_recipe("digits", ["training.epochs=7"])
    assert f"# hash {printed_recipe.hash}" in out

    assert lockstep("recipe", "init", "mine.toml")[0] == 0
    assert load_recipe(str(tmp_path / "mine.toml")) == load_recipe("seed")
    (tmp_path / "mine.toml").write_text("kept")
    status, _, err = lockstep("recipe", "init", "mine.toml")
    assert status == 2
    assert "mine.toml: exists already" in err
    assert (tmp_path / "mine.toml").read_text() == "kept"

    for name in ready_made_recipes():
        status, out, _ = lockstep("recipe", "check", name)
        assert status == 0
        assert load_recipe(name).hash in out


# --- bad input


TABLE = ("--data", "t.csv", "--target", "y")
BAD = [
    (
        ("run", "--set", "schedule.warmpu=3"),
        "schedule.warmpu: no such field; did you mean schedule.warmup?",
    ),
    (
        ("run", "--set", "training.epochs=zero"),
        "training.epochs: input should be a valid integer, got 'zero'",
    ),
    (
        ("run", "--set", "training.batch=0"),
        "training.batch: input should be greater than or equal to 1, got 0",
    ),
    (
        ("run", "--set", "model.hidden=[-1]"),
        "model.hidden.0: input should be greater than or equal to 1, got -1",
    ),
    (
        ("run", "--set", "schedule.warmup=11"),
        "schedule.warmup: 11 epochs of warmup are longer than the run",
    ),
    (
        ("run", "--set", "schedule.unit=update", "--set", "schedule.warmup=321"),
        "schedule.warmup: 321 updates of warmup",
    ),
    (
        ("run", "--set", "training.batch=1001"),
        "training.batch: 1001 rows are more than the 1000 training rows",
    ),
    (
        ("run", "--set", "data.rows=2", "--set", "data.classes=3"),
        "data.rows: 2 rows are fewer than the 3 classes",
    ),
    (
        ("run", "digist"),
        "digist: no such recipe file, and no ready-made recipe of that name; did you mean digits?",
    ),
    (("run", "--data", "t.csv"), "--data t.csv: name the column to predict with --target COLUMN"),
    (("run", "--data", "missing.csv", "--target", "y"), "missing.csv: no such file"),
    (("record", "--backend", "torch", "--out", "no/such/folder"), "no folder no/such"),
    (("record", "--backend", "tensorflow", "--out", "x"), "'tensorflow' is not one of"),
    (
        ("compare", "missing.trace", "missing.trace"),
        "missing.trace: cannot be read: No such file or directory",
    ),
    (("train",), "No such command 'train'"),
]
BAD_TABLES = [
    ("a,y\n1,0\nx,1\n2,1\n", "row 2, column 'a' holds 'x', text where a number is due"),
    ("a,y\n1,0\nNaN,1\n", "row 2, column 'a'"),
    ("a,y\n1,0\n2,1\ninf,1\n", "row 3, column 'a'"),
    ("a,y\n1,0\n,1\n", "row 2, column 'a' is empty"),
    ("a,z\n1,0\n2,1\n", "no column 'y' for the target"),
    ("a,y\n1,0\n2,0\n3,0\n", "a single class ('0')"),
]


def refused(result: tuple[int, str, str], message: str, folder: Path, before: set[str]) -> None:
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith("lockstep: ")
    assert message in err
    assert err.count("\n") == 1
    assert {str(path) for path in folder.rglob("*") if path.name != "runs"} == before


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line(
    lockstep: Lockstep, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    refused(lockstep(*arguments), message, tmp_path, set())


@pytest.mark.parametrize(("text", "message"), BAD_TABLES)
def test_a_bad_table_is_one_line(
    lockstep: Lockstep, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    refused(lockstep("run", *TABLE), message, tmp_path, {str(tmp_path / "t.csv")})


def test_traces_that_cannot_be_compared(lockstep: Lockstep, tmp_path: Path) -> None:
    by_oracle = ("record", "--backend", "oracle", "--out")
    lockstep(*by_oracle, "a.trace", *SMALL)
    lockstep(*by_oracle, "b.trace", *SMALL, "--set", "schedule.peak=0.02")
    by_torch = ("record", "--data", "t.csv", "--target", "answer", "--backend", "torch", *SMALL[1:])
    write_csv(tmp_path / "t.csv")
    lockstep(*by_torch, "--out", "c.trace")
    write_csv(tmp_path / "t.csv", rows=62)
    lockstep(*by_torch, "--out", "d.trace")
    (tmp_path / "cut.trace").write_bytes((tmp_path / "a.trace").read_bytes()[:1000])
    before = {str(path) for path in tmp_path.rglob("*")}
    for pair, message in (
        (("a.trace", "b.trace"), "traces of different recipes: schedule.peak 0.01 and 0.02"),
        (("c.trace", "d.trace"), "traces of different data"),
        (("c.trace", "c.trace"), "cannot be prepared again here"),  # the table has changed since
        (
            ("a.trace", "cut.trace"),
            "cut.trace: not a readable lockstep.trace file, perhaps truncated",
        ),
    ):
        refused(lockstep("compare", *pair), message, tmp_path, before)


def test_gpu_where_there_is_none_is_one_line(lockstep: Lockstep, tmp_path: Path) -> None:
    import jax
    import torch

    if torch.cuda.is_available() or jax.default_backend() == "gpu":
        pytest.skip("this machine has a GPU")
    for backend, name in (("torch", "PyTorch"), ("jax", "JAX")):
        result = lockstep("record", "--backend", backend, "--out", "x", "--device", "gpu", *SMALL)
        refused(result, f"--device gpu: {name}", tmp_path, set())
    result = lockstep("run", "--device", "gpu", *SMALL)
    refused(result, "sees no GPU on this machine", tmp_path, set())


def test_a_full_disk_leaves_the_old_trace_whole(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    words = ["record", "--backend", "oracle", "--out", "a.trace", *SMALL]
    command = [sys.executable, "-m", "lockstep", *words]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    before = (tmp_path / "a.trace").read_bytes()
    limited = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from lockstep.cli import main
main({words!r})
"""
    command = [sys.executable, "-c", limited]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("lockstep: a.trace: cannot be written: ")
    assert process.stderr.count("\n") == 1
    assert (tmp_path / "a.trace").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.trace"]
