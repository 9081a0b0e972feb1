"""What is written takes its place whole: a process may be stopped or killed at any point, and the
next one settles what it left.

A process is stopped by an audit hook, which Python calls before everything that it does to files.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lockstep.errors import InputError
from lockstep.files.outputs import NEW, check_output, json_document, write_file
from lockstep.files.partial import settle
from lockstep.golden import Golden, refuse_other_folder
from lockstep.report.run.folder import new_run_folder
from parity_tests.shared.sweep import sweep_but

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked")
ROOT = Path(__file__).parents[2]
HARNESS = '''
import os, signal, sys
from pathlib import Path

def stopped_at(n, how, act):
    """In a process of its own, which is killed or interrupted before its n-th act on a file; whether it came so far."""
    child = os.fork()
    if child == 0:
        left, is_armed = [n], [True]
        def hook(event, arguments):
            if is_armed[0] and event in EVENTS and not str(arguments[0]).startswith("/dev"):
                left[0] -= 1
                if left[0] == 0:
                    is_armed[0] = False
                    if how == "SIGKILL":
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise KeyboardInterrupt if how == "KeyboardInterrupt" else OSError(28, "No space left on device")
        sys.addaudithook(hook)
        try:
            act()
        except (KeyboardInterrupt, OSError, InputError):
            pass
        except BaseException as error:
            os.write(2, f"{how} at {n}: {error!r}\\n".encode())
        os._exit(3 if left[0] > 0 else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 3

EVENTS = {"open", "fcntl.flock"}
EVENTS |= {f"os.{name}" for name in ("mkdir", "rename", "link", "remove", "rmdir", "scandir", "listdir")}
from lockstep.errors import InputError
'''  # noqa: E501


def harnessed(code: str, *arguments: object) -> list[str]:
    """The lines that a script which uses `stopped_at` prints."""
    command = [sys.executable, "-c", HARNESS + code, *map(str, arguments)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300}
    process = subprocess.run(command, cwd=ROOT, check=False, **options)
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout.splitlines()


SWAP = """
import shutil
from lockstep.golden import Golden, write_golden
from lockstep.files.partial import settle
place, how = Path(sys.argv[1]), sys.argv[2]
both = Golden.load(Path("golden"))
few = {key: trace for key, trace in both.traces.items() if key.backend == "oracle"}
both = both._replace(traces=few)
old, new = both.only(["sgd"]), both.only(["lion"])
def write(golden):
    write_golden(place, golden.recipes, golden.data, golden.traces)
n = 0
is_reached = True
while is_reached:
    n += 1
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir()
    write(old)
    is_reached = stopped_at(n, how, lambda: write(new))
    hidden = len(os.listdir(place.parent)) - place.exists()
    (name,) = Golden.load(place).recipes
    settle(place)
    (settled,) = Golden.load(place).recipes
    assert name == settled, n
    print(name, hidden, *os.listdir(place.parent))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", sweep_but(["SIGKILL"], ["SIGKILL", "KeyboardInterrupt", "OSError"]))
def test_a_golden_folder_is_the_old_one_or_the_new_one(how: str, tmp_path: Path) -> None:
    lines = harnessed(SWAP, tmp_path / "here/gold", how)
    states = [line.split() for line in lines]
    assert len(states) > 20
    assert all(beside == ["gold"] for _, _, *beside in states)
    names = [name for name, *_ in states]
    assert set(names) == {"sgd", "lion"}
    if how == "SIGKILL":
        # from some point on it is the new one
        assert names == sorted(names, key=("sgd", "lion").index)
        assert {hidden for _, hidden, *_ in states} == {"0", "1"}


FOLDER = """
import shutil
from lockstep.files.partial import settle
from lockstep.report.run.folder import new_run_folder
place, how = Path(sys.argv[1]), sys.argv[2]
def fill():
    with new_run_folder(place) as folder:
        (folder.partial / "a").write_text("whole")
        (folder.partial / "b").mkdir()
        (folder.partial / "b/c").write_text("whole")
        ended.touch()
n = 0
is_reached = True
ended = place.parent.parent / "ended"
while is_reached:
    n += 1
    shutil.rmtree(place.parent, ignore_errors=True)
    ended.unlink(missing_ok=True)
    place.parent.mkdir()
    is_reached = stopped_at(n, how, fill)
    settle(place)
    kept = place.exists() and sorted(path.name for path in place.rglob("*")) == ["a", "b", "c"]
    assert kept == place.exists(), n
    print(int(ended.exists()), int(kept), *os.listdir(place.parent))
"""


@pytest.mark.parametrize("how", ["SIGKILL", "KeyboardInterrupt", "OSError"])
def test_a_run_folder_is_whole_or_not_there(how: str, tmp_path: Path) -> None:
    states = [line.split() for line in harnessed(FOLDER, tmp_path / "here/R", how)]
    assert len(states) > 10
    for ended, is_there, *beside in states:
        assert beside == (["R"] if is_there == "1" else [])
        assert not (is_there == "1" and ended == "0")
    assert {is_there for _, is_there, *_ in states} == {"0", "1"}
    if how == "OSError":  # what was trained is kept, whatever fails afterwards
        assert all(is_there == "1" for ended, is_there, *_ in states if ended == "1")


FILE = """
from lockstep.files.outputs import check_output, json_document, write_file
from lockstep.files.partial import settle
place, how, is_there = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
kind = json_document("a.kind")
old, new = b'{"schema": "a.kind/1"}', b'{"schema": "a.kind/2"}' * 1000
n = 0
is_reached = True
while is_reached:
    n += 1
    for path in place.parent.iterdir():
        path.unlink()
    if is_there == "there":
        place.write_bytes(old)
    is_reached = stopped_at(n, how, lambda: write_file(place, new, kind))
    settle(place)
    content = place.read_bytes() if place.exists() else b""
    print({old: "old", new: "new", b"": "none"}[content], *os.listdir(place.parent))
"""


@pytest.mark.parametrize("there", ["there", "not there"])
@pytest.mark.parametrize("how", ["SIGKILL", "KeyboardInterrupt", "OSError"])
def test_a_file_is_the_old_one_or_the_new_one(how: str, there: str, tmp_path: Path) -> None:
    states = [line.split() for line in harnessed(FILE, tmp_path / "f", how, there)]
    before = "old" if there == "there" else "none"
    assert {content for content, *_ in states} == {before, "new"}
    assert all(beside == ([] if content == "none" else ["f"]) for content, *beside in states)


HOLD = """
import sys
from pathlib import Path
from lockstep.files.partial import new_folder, swapped_folder
with {"folder": new_folder, "swap": swapped_folder}[sys.argv[2]](Path(sys.argv[1])) as folder:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["folder", "swap"])
def test_what_a_living_process_fills_is_left_alone(state: str, tmp_path: Path) -> None:
    place = tmp_path / "R"
    command = [sys.executable, "-c", HOLD, str(place), state]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        (partial,) = tmp_path.iterdir()
        settle(place)
        with new_run_folder(place) as folder:
            (folder.partial / "mine").touch()
        assert partial.exists()
        process.kill()
    settle(place.with_name("S"))  # another place's
    assert partial.exists()
    settle(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["R"]


def test_a_users_hidden_files_are_left_alone(tmp_path: Path) -> None:
    others = [".R.partial", ".R.0123456x.partial", ".R.01234567.part"]
    others += [".S.01234567.partial", "R.01234567.partial"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".R.01234567.partial").symlink_to(tmp_path / ".R.partial")
    settle(tmp_path / "R")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([*others, ".R.01234567.partial"])


def take_by_file(place: Path) -> None:
    place.write_text("mine")


def take_by_folder(place: Path) -> None:
    (place / "mine").mkdir(parents=True)


def take_by_link(place: Path) -> None:
    place.symlink_to("nowhere")


@pytest.mark.parametrize("take", [take_by_file, take_by_folder, take_by_link])
def test_a_name_that_appears_meanwhile_is_kept_and_the_run_has_another(
    take: Callable[[Path], None], tmp_path: Path
) -> None:
    with new_run_folder(tmp_path / "R") as folder:
        (folder.partial / "trained").touch()
        take(tmp_path / "R")
    assert folder.final == tmp_path / "R-2"
    assert (tmp_path / "R-2/trained").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["R", "R-2"]


def test_folders_made_for_nothing_are_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_run_folder(tmp_path / "a/b/R"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_a_folder_has_a_name(name: str) -> None:
    with pytest.raises(InputError, match="ends in no name"), new_run_folder(Path(name)):
        pass
    with pytest.raises(InputError, match="ends in no name"):
        refuse_other_folder(Path(name))


def test_a_golden_folder_that_is_a_link_is_kept(tmp_path: Path) -> None:
    golden = Golden.load(ROOT / "golden")
    (tmp_path / "gold").symlink_to(ROOT / "golden")
    assert Golden.load(tmp_path / "gold").recipes == golden.recipes  # to read it is no harm
    with pytest.raises(InputError, match="is a link"):
        refuse_other_folder(tmp_path / "gold")


def test_what_killed_writers_left_goes_with_the_next_file(tmp_path: Path) -> None:
    kind = json_document("a.kind")
    (tmp_path / ".f.json.01234567.partial").write_text("half of")
    (tmp_path / ".g.json.01234567.partial").write_text("half of")
    check_output(tmp_path / "f.json", kind)
    write_file(tmp_path / "f.json", json.dumps({"schema": "a.kind/1"}).encode(), NEW)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".g.json.01234567.partial", "f.json"]


# below nohup, a process is to live on
IS_WITHOUT_HANGUP = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
HANGUP = pytest.param(
    "SIGHUP", marks=pytest.mark.skipif(IS_WITHOUT_HANGUP, reason="SIGHUP is ignored here")
)


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [HANGUP, "SIGTERM", "SIGINT", "SIGKILL"])
def test_a_run_that_is_ended_leaves_nothing(ended_by: str, tmp_path: Path) -> None:
    """The folder of a run that is killed goes with the next run of the same --out, even one that
    fails.
    """
    command = [sys.executable, "-m", "lockstep", "run", "--out", "R"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.Signals[ended_by])
    _, err = process.communicate(timeout=60)
    if ended_by == "SIGKILL":
        assert len(list(tmp_path.iterdir())) == 1
        command += ["--data", "none.csv", "--target", "y"]
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    else:
        assert (process.returncode, err) == (130, "\nlockstep: stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_a_hangup_that_is_ignored_stays_so() -> None:
    code = """
import signal, sys
from lockstep.cli import main
signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.argv = ["lockstep", "recipe", "show"]
try:
    main()
except SystemExit:
    print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, file=sys.stderr)
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stderr == "True\n"
