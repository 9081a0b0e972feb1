"""A reader who leaves changes no exit status, and a full disk is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.files.test_outputs import loop
from parity_tests.shared.sweep import sweep_but

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
EQUAL = ("compare", "a.trace", "a.trace")
PARTED = ("compare", "a.trace", "b.trace")
SHORT = ("--set=training.epochs=1", "--set=schedule.warmup=0")
COMMANDS = [
    (EQUAL, 0),
    (PARTED, 1),
    (("diagnose", "a.trace", "b.trace"), 1),
    (("compare", "a.trace", "none.trace"), 2),
    (("names", "a.trace", "a.trace", "--out", "names.toml"), 0),
    (("recipe", "show"), 0),
    (("curve", "--preset", "hf.cosine"), 0),
    (("record", "--backend", "oracle", "--out", "t.trace", *SHORT), 0),
    (("atlas",), 0),
    (("--help",), 0),
]


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    loop("a.trace")
    loop("b.trace", rate=0.2)
    return tmp_path


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def run(
    arguments: tuple[str, ...], *, python: tuple[str, ...] = (), **streams: int
) -> tuple[int, str]:
    command = [sys.executable, *python, "-m", "lockstep", *arguments]
    all_streams = {"stderr": subprocess.PIPE} | streams
    process = subprocess.run(command, text=True, check=False, **all_streams)
    for stream in streams.values():
        if stream >= 0:
            os.close(stream)
    return process.returncode, process.stderr or ""


@pytest.mark.usefixtures("traces")
@pytest.mark.parametrize(("command", "status"), COMMANDS, ids=lambda value: str(value)[:40])
def test_a_reader_who_leaves_changes_no_status(command: tuple[str, ...], status: int) -> None:
    code, err = run(command, stdout=closed_pipe())
    assert (code, err.count("\n")) == (status, 1 if status == 2 else 0), err


@pytest.mark.usefixtures("traces")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize(("command", "status"), COMMANDS, ids=lambda value: str(value)[:40])
def test_a_full_disk_is_one_line(command: tuple[str, ...], status: int) -> None:
    code, err = run(command, stdout=os.open("/dev/full", os.O_WRONLY))
    assert (code, err.count("\n")) == (2, 1), err
    if status != 2:
        assert err == "lockstep: standard output: cannot be written: No space left on device\n"


@pytest.mark.parametrize("python", [(), pytest.param(("-u",), marks=pytest.mark.sweep)])
def test_the_rest_is_done_all_the_same(python: tuple[str, ...], traces: Path) -> None:
    """The command writes its files after the first line that nobody reads, and with both streams
    in one pipe too.
    """
    junit = traces / "j.xml"
    for command, status in ((EQUAL, 0), (PARTED, 1)):
        command += ("--junit", str(junit))
        assert run(command, python=python, stdout=closed_pipe())[0] == status
        assert junit.exists()
        junit.unlink()
        pipe = closed_pipe()
        assert run(command, python=python, stdout=pipe, stderr=os.dup(pipe))[0] == status
        junit.unlink()
        if Path("/dev/full").exists():
            assert run(command, python=python, stdout=os.open("/dev/full", os.O_WRONLY))[0] == 2
            junit.unlink()


@pytest.mark.usefixtures("traces")
@pytest.mark.parametrize("closed", sweep_but(["1", "0 1 2"], ["1", "2", "1 2", "0 1 2"]))
def test_a_stream_that_is_closed_changes_no_status(closed: str) -> None:
    redirections = " ".join(f"{descriptor}>&-" for descriptor in closed.split())
    for command, status in ((EQUAL, 0), (PARTED, 1), (("compare", "none", "none"), 2)):
        shell = ["sh", "-c", f'"$@" {redirections}', "sh"]
        process = subprocess.run([*shell, sys.executable, "-m", "lockstep", *command], check=False)
        assert process.returncode == status


@pytest.mark.usefixtures("traces")
def test_what_is_read_is_what_was_printed() -> None:
    command = [sys.executable, "-m", "lockstep", *PARTED]
    whole = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "verdict: diverged" in whole.stdout
    command[1:1] = ["-u"]
    unbuffered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert unbuffered.stdout == whole.stdout
