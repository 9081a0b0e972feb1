"""The benchmark of recording weighs a loop, and finds the tensor that one of two runs changes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.recording", "--size", "1M", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_planted_change_is_found() -> None:
    ended = run("--updates", "4", "--find")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    line = "the same bits before update 2; first others there: parameters of blocks.1.narrow.weight"
    assert line in ended.stdout
    assert "the tensor is named" in ended.stdout


@pytest.mark.slow
def test_every_mode_is_weighed_against_the_bare_loop() -> None:
    lines = run("--updates", "2", "--rounds", "1").stdout
    assert lines.startswith("1.1 M parameters, 2 updates")
    for mode in ("bare", "scalars", "sketches"):
        assert f"\n{mode:9} " in lines
    assert lines.count("bar 5: met") == 2
