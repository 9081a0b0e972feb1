"""The folder for a bug report shows the divergence by itself, in a Python without lockstep."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lockstep.cli import main
from lockstep.records.trace import Trace
from parity_tests.diagnose.test_explained import record


def run(folder: Path) -> str:
    """What the script prints, where lockstep cannot be imported."""
    blocked = "import sys, runpy; sys.modules['lockstep'] = None; runpy.run_path(sys.argv[1]"
    code = f"{blocked}, run_name='__main__')"
    command = [sys.executable, "-I", "-W", "error", "-c", code, str(folder / "repro.py")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def repro(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["repro", *map(str, arguments)])
    return int(stopped.value.code or 0)


@pytest.fixture
def right(tmp_path: Path) -> Path:
    return record(tmp_path / "a.trace")


def errors_of(text: str, words: str) -> list[float]:
    lines = [line for line in text.splitlines() if words in line]
    return [float(line.rpartition(" ")[2]) for line in lines]


def test_a_layer_is_computed_again(tmp_path: Path, right: Path) -> None:
    wrong = record(tmp_path / "b.trace", eps=1e-3)
    assert repro(right, wrong, "--out", tmp_path / "report") == 0
    text = run(tmp_path / "report")
    assert "They part at update 0, forward, norm" in text
    assert "an eps of 0.001 for 1e-05" in text
    own = errors_of(text, "on a's input is off from a's output")
    own += errors_of(text, "on b's input is off from b's output")
    other = errors_of(text, "on a's input is off from b's output")
    assert len(own) == 2
    assert max(own) < 1e-14
    assert min(other) > 1e-3


def test_steps_are_taken_again(tmp_path: Path, right: Path) -> None:
    wrong = record(tmp_path / "b.trace", decay=0.3)
    assert repro(right, wrong, "--out", tmp_path / "report") == 0
    text = run(tmp_path / "report")
    own = errors_of(text, "as a set it is off from a's step")
    own += errors_of(text, "as b set it is off from b's step")
    assert len(own) == 2
    assert max(own) < 1e-13
    assert min(errors_of(text, "as b set it is off from a's step")) > 1e-3


def test_a_relation_of_gradients_is_shown(tmp_path: Path, right: Path) -> None:
    wrong = record(tmp_path / "b.trace", clears=False)
    assert repro(right, wrong, "--out", tmp_path / "report") == 0
    text = run(tmp_path / "report")
    assert max(errors_of(text, "off from b's by")) < 1e-12
    with np.load(tmp_path / "report" / "arrays.npz", allow_pickle=False) as arrays:
        assert "output|b|out.weight" in arrays.files


def test_names_in_a_trace_are_no_code(tmp_path: Path, right: Path) -> None:
    """A layer's name, an optimizer's class and a module's settings come from the file."""
    evil = '"""+__import__("os").abort()+"""\n#'
    for name, eps in (("a", 1e-5), ("b", 1e-3)):
        trace = Trace.load(record(tmp_path / f"{name}-plain.trace", eps=eps))
        header = dict(trace.header)
        header["layers"] = [layer.replace("norm", evil) for layer in header["layers"]]
        header["inputs"] = {key.replace("norm", evil): x for key, x in header["inputs"].items()}
        modules = {key.replace("norm", evil): x for key, x in header["read"]["modules"].items()}
        modules[evil] = modules[evil] | {"normalized_shape": evil, "eps": f"exit({evil})"}
        group = {"parameters": [evil], "eps": evil}
        optimizer = {"class": f"torch.optim.{evil}", "name": "sgd", "groups": [group]}
        header["read"] = {"modules": modules, "optimizers": [optimizer]}
        shapes = {key.replace("norm", evil): x for key, x in header["shapes"].items()}
        header |= {"shapes": shapes, "environment": {"torch": evil}}
        arrays = {key.replace("norm.", f"{evil}."): x for key, x in trace.arrays.items()}
        arrays = {key.replace("forward/norm", f"forward/{evil}"): x for key, x in arrays.items()}
        replace(trace, header=header, arrays=arrays).save(tmp_path / f"{name}.trace")
    assert repro(tmp_path / "a.trace", tmp_path / "b.trace", "--out", tmp_path / "report") == 0
    assert "They part at update 0, forward" in run(tmp_path / "report")


def test_what_cannot_be_shown_is_refused(
    tmp_path: Path, right: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repro(right, right, "--out", tmp_path / "report") == 2
    assert "do not part" in capsys.readouterr().err
    bare = [
        record(tmp_path / f"{side}-bare.trace", decay=decay, every=0)
        for side, decay in (("a", 0.0), ("b", 0.3))
    ]
    assert repro(*bare, "--out", tmp_path / "report") == 2
    assert "window=range(" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
